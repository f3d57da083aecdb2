package operator

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// report writes what was seen to the status. failed is why the pass was cut short, if it was.
func (p *pass) report(ctx context.Context, failed error) error {
	if failed != nil {
		p.block("KubernetesFailed", "%s", firstLine(failed))
	}
	status := p.before.DeepCopy()
	status.ObservedGeneration, status.Selector = p.cluster.Generation, selectorOf(p.cluster)
	if p.known() {
		p.members(status)
	}
	p.conditions(status)
	if equality.Semantic.DeepEqual(*p.before, *status) {
		return nil
	}
	p.tell(status)
	patched := p.cluster.DeepCopy()
	patched.Status = *p.before
	before := client.MergeFrom(patched.DeepCopy())
	patched.Status = *status
	if err := p.Client.Status().Patch(ctx, patched, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the status: %w", err)
	}
	return nil
}

// known tells whether the shards were seen. What was seen before stays in the status otherwise.
func (p *pass) known() bool { return p.registry != nil && p.registry.Created && p.answers != nil }

func (p *pass) members(status *v1alpha1.LedgerClusterStatus) {
	status.Cluster, status.Shards, status.ReadyShards, status.Members = p.registry.Cluster, 0, 0, nil
	for _, m := range p.plan.members {
		answer, answers := p.answers[m.id]
		if m.part == keep || m.part == leave {
			status.Shards++
			if answers {
				status.ReadyShards++
			}
		}
		status.Members = append(status.Members, v1alpha1.Member{
			ID: string(m.id), State: p.state(m), Slots: int32(m.Slots), Sagas: int32(answer.Sagas), Message: p.notes[m.id],
		})
	}
	status.Shards += int32(len(p.plan.create))
}

func (p *pass) conditions(status *v1alpha1.LedgerClusterStatus) {
	set := func(kind string, state metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: state, Reason: reason, Message: shortened(message), ObservedGeneration: p.cluster.Generation,
			LastTransitionTime: metav1.NewTime(p.now()),
		})
	}
	ready, reason, message := p.readiness()
	set(v1alpha1.ConditionReady, ready, reason, message)
	p.unbalanced()
	switch {
	case len(p.scaling) > 0:
		set(v1alpha1.ConditionScaling, metav1.ConditionTrue, p.scaling[0].reason, messages(p.scaling))
	case p.known():
		reason, message := "Settled", "there are as many shards as are wanted"
		if p.registry.Left > 0 {
			reason, message = "Unbalanced", fmt.Sprintf("%d slots are not where they should be: `saldo rebalance` moves them", p.registry.Left)
		}
		set(v1alpha1.ConditionScaling, metav1.ConditionFalse, reason, message)
	default:
		set(v1alpha1.ConditionScaling, metav1.ConditionUnknown, "Unknown", "it is not known which shards there are")
	}
	if len(p.blocked) > 0 {
		set(v1alpha1.ConditionBlocked, metav1.ConditionTrue, p.blocked[0].reason, messages(p.blocked))
	} else {
		set(v1alpha1.ConditionBlocked, metav1.ConditionFalse, "Free", "nothing is in the way")
	}
}

// unbalanced says that slots have yet to move, where they do so by themselves.
func (p *pass) unbalanced() {
	if !p.known() || p.registry.Left == 0 || p.cluster.Spec.Rebalance == v1alpha1.RebalanceManual && p.registry.Moving == 0 {
		return
	}
	message := fmt.Sprintf("%d slots have yet to move", p.registry.Left)
	if p.registry.Moving == 0 {
		message += ", and no move is planned: if it stays so, see that coordinators run, with SALDO_REBALANCE=auto"
	}
	p.scale("Rebalancing", "%s", message)
}

func (p *pass) readiness() (state metav1.ConditionStatus, reason, message string) {
	if !p.known() {
		return metav1.ConditionUnknown, "Unknown", "it is not known which shards there are"
	}
	serving := 0
	for _, m := range p.plan.members {
		_, answers := p.answers[m.id]
		switch {
		case m.part != keep && m.part != leave:
		case m.registered && !answers:
			return metav1.ConditionFalse, "ShardAway", fmt.Sprintf("shard %s, which owns %d slots: %s", m.id, m.Slots, p.notes[m.id])
		case m.registered && m.part == keep:
			serving++
		}
	}
	switch {
	case !p.registry.Founded:
		return metav1.ConditionFalse, "NotFounded", fmt.Sprintf("the slots have no owners yet: %d of %d shards are registered", serving, p.registry.Initial)
	case serving < int(p.cluster.Spec.Shards):
		return metav1.ConditionFalse, "TooFew", fmt.Sprintf("%d of %d shards serve", serving, p.cluster.Spec.Shards)
	}
	return metav1.ConditionTrue, "Serving", fmt.Sprintf("%d shards serve", serving)
}

// tell warns once of what has come into the way.
func (p *pass) tell(status *v1alpha1.LedgerClusterStatus) {
	was := meta.FindStatusCondition(p.before.Conditions, v1alpha1.ConditionBlocked)
	is := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionBlocked)
	if is.Status == metav1.ConditionTrue && (was == nil || was.Reason != is.Reason || was.Message != is.Message) {
		p.Events.Eventf(p.cluster, nil, corev1.EventTypeWarning, "Blocked", is.Reason, "%s: %s", is.Reason, is.Message)
		p.Log.Warn("blocked", "cluster", client.ObjectKeyFromObject(p.cluster).String(), "reason", is.Reason, "message", is.Message)
	}
}

func messages(problems []problem) string {
	var texts []string
	for _, problem := range problems {
		texts = append(texts, problem.message)
	}
	return strings.Join(texts, "; ")
}

// shortened keeps to what a condition may hold, and an event after it.
func shortened(message string) string {
	const most = 900
	if runes := []rune(message); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return message
}

package operator_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// Two shards become four and two again: the volumes of those that left stay, and ids are not used twice.
func TestScale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	w.owners("s1:2048", "s2:2048")
	w.is(v1alpha1.ConditionReady, metav1.ConditionTrue, "Serving")
	w.is(v1alpha1.ConditionScaling, metav1.ConditionFalse, "Settled")
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionFalse, "Free")

	w.want(4)
	w.settles()
	w.owners("s1:1024", "s2:1024", "s3:1024", "s4:1024")
	if s := w.status(); s.Shards != 4 || s.ReadyShards != 4 || s.Cluster != "fake0" || len(s.Members) != 4 || s.Members[3].Slots != 1024 {
		t.Errorf("the status is %+v", s)
	}

	w.want(2)
	w.settles()
	w.owners("s1:2048", "s2:2048")
	for _, id := range []string{"s3", "s4"} {
		claim := w.claim(id)
		if w.set(id) != nil || claim == nil || claim.Labels["ledger.saldo.dev/retired"] != "true" || len(claim.Finalizers) > 0 ||
			claim.Annotations["ledger.saldo.dev/retired-at"] == "" {
			t.Errorf("%s has not left, or its claim is not retired: %+v", id, claim)
		}
	}
	for _, id := range []string{"s1", "s2"} {
		if claim := w.claim(id); !slices.Contains(claim.Finalizers, finalizer) {
			t.Errorf("the claim of %s is not protected: %+v", id, claim)
		}
	}

	w.want(3)
	w.settles()
	w.owners("s1:1366", "s2:1365", "s5:1365")
}

// What is told to people on the way.
func TestScaleIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(1)
	if err := w.reconciles(); err != nil {
		t.Fatal(err)
	}
	w.is(v1alpha1.ConditionScaling, metav1.ConditionTrue, "Founding")
	w.settles()
	w.want(2)
	if err := w.turns(); err != nil {
		t.Fatal(err)
	}
	w.is(v1alpha1.ConditionScaling, metav1.ConditionTrue, "Creating")
	w.is(v1alpha1.ConditionReady, metav1.ConditionFalse, "TooFew")
	if err := w.turns(); err != nil {
		t.Fatal(err)
	}
	w.is(v1alpha1.ConditionScaling, metav1.ConditionTrue, "Joining")
	if err := w.reconciles(); err != nil {
		t.Fatal(err)
	}
	w.is(v1alpha1.ConditionScaling, metav1.ConditionTrue, "Rebalancing")
	w.settles()
	w.want(1)
	for range 2 {
		if err := w.reconciles(); err != nil {
			t.Fatal(err)
		}
	}
	w.is(v1alpha1.ConditionScaling, metav1.ConditionTrue, "Draining")
	w.settles()
	var reasons []string
	for len(w.events.Events) > 0 {
		reasons = append(reasons, strings.Fields(<-w.events.Events)[1])
	}
	for _, want := range []string{"ClusterCreated", "ShardCreated", "ShardJoined", "ShardDraining", "ShardRemoved", "ShardRetired"} {
		if !slices.Contains(reasons, want) {
			t.Errorf("no event %s among %v", want, reasons)
		}
	}
}

// Raising the count in the middle of a drain takes it back.
func TestDrainIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(3)
	w.settles()
	w.want(1)
	if err := w.reconciles(); err != nil {
		t.Fatal(err)
	}
	w.owners("s1:1366", "s2:1365 draining", "s3:1365 draining")
	w.ledger.Move(300)
	w.want(2)
	w.settles()
	w.owners("s1:2048", "s2:2048")
	w.want(2)
	w.settles()
}

// A shard that was made and is not wanted any more before it could join is never registered.
func TestCountGoesBackBeforeAShardHasJoined(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	w.ledger.Down("s3", true)
	w.want(3)
	for range 4 {
		if err := w.turns(); err != nil {
			t.Fatal(err)
		}
	}
	w.want(2)
	w.settles()
	w.owners("s1:2048", "s2:2048")
	if w.set("s3") != nil || w.claim("s3") == nil {
		t.Errorf("s3 is not retired:\n%s", w.shows())
	}
	w.want(3)
	w.settles()
	w.owners("s1:1366", "s2:1365", "s4:1365")
}

// A cluster that waits to be founded with three shards is, whatever is said meanwhile.
func TestCountGoesBackBeforeTheFounding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(3)
	if err := w.turns(); err != nil {
		t.Fatal(err)
	}
	w.want(1)
	w.settles()
	w.owners("s1:4096")
}

// Without etcd nobody knows who owns what.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(3)
	w.settles()
	before := w.ledger.Owners()
	w.ledger.Etcd(false)
	w.want(1)
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "RegistryUnreachable")
	w.is(v1alpha1.ConditionReady, metav1.ConditionUnknown, "Unknown")
	w.owners(before...)
	if s := w.status(); len(s.Members) != 3 || s.Shards != 3 {
		t.Errorf("what was known is forgotten: %+v", s)
	}
	w.ledger.Etcd(true)
	w.settles()
	w.owners("s1:4096")
}

// A registry that knows nothing of what is there was lost: nothing is founded in its place.
func TestRegistryLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	w.ledger.Lose()
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "RegistryLost")
	w.owners()

	// Nor if only the volumes are left.
	for _, id := range []string{"s1", "s2"} {
		set := w.set(id)
		set.Finalizers = nil
		w.somebody(w.api.Update(t.Context(), set))
		w.somebody(w.api.Delete(t.Context(), set))
	}
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "RegistryLost")
	w.owners()

	// Unless somebody says that these are not needed any more.
	for _, id := range []string{"s1", "s2"} {
		claim := w.claim(id)
		claim.Labels["ledger.saldo.dev/retired"] = "true"
		w.somebody(w.api.Update(t.Context(), claim))
	}
	w.settles()
	w.owners("s3:2048", "s4:2048")
}

// Nor does a registry of another cluster say what may go.
func TestAnotherRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(3)
	w.settles()
	w.ledger.Lose()
	w.somebody(w.ledger.Create(t.Context(), 1))
	w.somebody(w.ledger.Retire(t.Context(), "s1"))
	w.somebody(w.ledger.Join(t.Context(), "s9", "postgres://elsewhere/saldo"))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "AnotherRegistry")
	w.owners("s9:4096")
	for _, id := range []string{"s1", "s2", "s3"} {
		if set := w.set(id); set == nil || set.DeletionTimestamp != nil {
			t.Errorf("%s is gone by what another cluster says", id)
		}
	}
}

func TestShardAwayForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(3)
	w.settles()
	w.ledger.Down("s2", true)
	w.settles()
	w.is(v1alpha1.ConditionReady, metav1.ConditionFalse, "ShardAway")
	if w.set("s2") == nil {
		t.Error("s2 is gone")
	}
	// It cannot leave either.
	w.want(1)
	w.settles()
	if owners := w.ledger.Owners(); len(owners) != 2 || !strings.HasPrefix(owners[1], "s2:") || !strings.HasSuffix(owners[1], " draining") {
		t.Errorf("the registry has %v", owners)
	}
	w.ledger.Down("s2", false)
	w.settles()
	w.owners("s1:4096")
}

// A drained shard whose database says otherwise stays.
func TestEmptyOnlyByTheRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	w.ledger.Sagas("s2", 3)
	w.want(1)
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "NotRemoved")
	w.owners("s1:4096", "s2:0 draining")
	if s := w.status(); s.Members[1].Sagas != 3 || s.Members[1].State != v1alpha1.MemberDraining {
		t.Errorf("the status is %+v", s)
	}
	w.ledger.Sagas("s2", 0)
	w.settles()
	w.owners("s1:4096")
}

// A StatefulSet that somebody deletes stays, until somebody says that it may be made anew; its volume is the same.
func TestStatefulSetDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	claim := w.claim("s1").UID
	w.somebody(w.api.Delete(t.Context(), w.set("s1")))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "ShardDeleted")
	set := w.set("s1")
	set.Annotations["ledger.saldo.dev/recreate"] = "true"
	w.somebody(w.api.Update(t.Context(), set))
	w.allowed[set.Name] = true
	w.settles()
	w.is(v1alpha1.ConditionReady, metav1.ConditionTrue, "Serving")
	if again := w.set("s1"); again == nil || again.DeletionTimestamp != nil || w.claim("s1").UID != claim {
		t.Errorf("it was not made anew on its volume:\n%s", w.shows())
	}
}

// One that is gone altogether is made anew on its volume, and not without.
func TestStatefulSetGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	gone := func() {
		set := w.set("s1")
		set.Finalizers = nil
		w.somebody(w.api.Update(t.Context(), set))
		w.somebody(w.api.Delete(t.Context(), set))
	}
	gone()
	w.settles()
	if w.set("s1") == nil {
		t.Errorf("it was not made anew:\n%s", w.shows())
	}
	gone()
	claim := w.claim("s1")
	claim.Finalizers = nil
	w.somebody(w.api.Update(t.Context(), claim))
	w.somebody(w.api.Delete(t.Context(), claim))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "ShardLost")
	if w.set("s1") != nil {
		t.Error("an empty server stands in for one with money")
	}
}

func TestClaimDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(1)
	w.settles()
	w.somebody(w.api.Delete(t.Context(), w.claim("s1")))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "ClaimDeleted")
	if w.claim("s1") == nil {
		t.Error("the claim is gone")
	}
}

// What must not be is undone, and a new template reaches one shard after the other.
func TestTemplates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	set := w.set("s2")
	set.Spec.Replicas = new(int32(0))
	set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	}
	w.somebody(w.api.Update(t.Context(), set))
	w.settles()
	set = w.set("s2")
	if *set.Spec.Replicas != 1 || set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
		t.Errorf("it is still %+v", set.Spec)
	}

	w.ledger.Down("s1", true)
	w.want(2, func(c *v1alpha1.LedgerCluster) { c.Spec.Postgres.Image = "postgres:17.6" })
	image := func(id string) string { return w.set(id).Spec.Template.Spec.Containers[0].Image }
	w.settles()
	if image("s1") == "postgres:17.5" || image("s2") != "postgres:17.5" {
		t.Errorf("while s1 is down: %s and %s", image("s1"), image("s2"))
	}
	w.ledger.Down("s1", false)
	w.settles()
	if image("s2") != "postgres:17.6" {
		t.Errorf("in the end: %s", image("s2"))
	}
}

// A LedgerCluster that somebody deletes stays as long as its shards hold money, and lets them go on when that is said.
func TestLedgerClusterDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2)
	w.settles()
	remove := func() {
		cluster := new(v1alpha1.LedgerCluster)
		if !w.get(cluster, "main") {
			t.Fatal("it is gone")
		}
		w.somebody(w.api.Delete(t.Context(), cluster))
	}
	remove()
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "HoldsMoney")
	w.ledger.Etcd(false)
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "RegistryUnreachable")

	cluster := new(v1alpha1.LedgerCluster)
	w.get(cluster, "main")
	cluster.Annotations = map[string]string{"ledger.saldo.dev/release": "true"}
	w.somebody(w.api.Update(t.Context(), cluster))
	for _, id := range []string{"s1", "s2"} {
		w.allowed["main-"+id], w.allowed["data-main-"+id+"-0"] = true, true
	}
	w.settles()
	if w.get(new(v1alpha1.LedgerCluster), "main") {
		t.Error("it is still there")
	}
	w.owners("s1:2048", "s2:2048")
	if set := w.set("s1"); set == nil || len(set.Finalizers) > 0 || w.claim("s1") == nil {
		t.Errorf("s1 does not go on:\n%s", w.shows())
	}

	// Made again, it is the same cluster's.
	w.ledger.Etcd(true)
	w.allowed = map[string]bool{}
	w.want(3)
	w.settles()
	w.owners("s1:1366", "s2:1365", "s3:1365")
	if set := w.set("s1"); !slices.Contains(set.Finalizers, finalizer) || !slices.Contains(w.claim("s1").Finalizers, finalizer) {
		t.Errorf("s1 is not kept again:\n%s", w.shows())
	}
}

// One whose shards never were registered takes all but their volumes along.
func TestLedgerClusterDeletedBeforeItHolds(t *testing.T) {
	t.Parallel()
	for _, turns := range []int{0, 1, 2, 3} {
		w := newWorld(t)
		w.ledger.Down("s1", true)
		w.want(1)
		for range turns {
			if err := w.turns(); err != nil {
				t.Fatal(err)
			}
		}
		cluster := new(v1alpha1.LedgerCluster)
		w.get(cluster, "main")
		w.somebody(w.api.Delete(context.Background(), cluster))
		w.settles()
		if w.get(cluster, "main") || w.set("s1") != nil || w.get(new(corev1.Service), "main-s1") {
			t.Errorf("after %d turns:\n%s", turns, w.shows())
		}
	}
}

// Shards of other people are counted as theirs, and their ids are not taken.
func TestForeignShards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.somebody(w.ledger.Create(t.Context(), 1))
	w.somebody(w.ledger.Join(t.Context(), "s3", "postgres://elsewhere/saldo"))
	w.want(2)
	w.settles()
	w.owners("s3:1366", "s4:1365", "s5:1365")
	w.want(1)
	w.settles()
	w.owners("s3:2048", "s4:2048")
	if m := w.status().Members; len(m) != 2 || m[1].ID != "s3" || m[1].State != v1alpha1.MemberForeign {
		t.Errorf("the members are %+v", m)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(1, func(c *v1alpha1.LedgerCluster) { c.Spec.PasswordSecret.Name = "none" })
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "SecretMissing")
	w.somebody(w.api.Create(t.Context(), secret("none", "Robert'); drop table")))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "SecretUnfit")
	w.want(1, func(c *v1alpha1.LedgerCluster) {
		c.Spec.PasswordSecret.Name = "services"
		c.Spec.Etcd.TLSSecret = &v1alpha1.SecretReference{Name: "services"}
	})
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "SecretUnfit")
}

// A database that is something else is said, and left alone.
func TestDatabaseThatIsSomethingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.somebody(w.ledger.Create(t.Context(), 1))
	w.somebody(w.ledger.Join(t.Context(), "s9", "postgres://app@main-s10-0.main-s10.bank.svc:5432/saldo"))
	w.want(1)
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "NotJoined")
	w.owners("s9:4096")
}

package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// Reconciler has the shards of a LedgerCluster be what it says.
type Reconciler struct {
	// Client reads from the API server itself: what is old by a moment is not decided by.
	Client  client.Client
	Connect func(ctx context.Context, to Connection) (Ledger, error)
	Events  events.EventRecorder
	Log     *slog.Logger

	Busy time.Duration // until the next look, while something comes or goes, or is blocked; 5 s if 0
	Idle time.Duration // until the next look otherwise; 30 s if 0

	Now func() time.Time // time.Now if nil
}

const askTimeout = 5 * time.Second

// Reconcile looks at one LedgerCluster and takes each step that can be taken now.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	cluster := new(v1alpha1.LedgerCluster)
	if err := r.Client.Get(ctx, request.NamespacedName, cluster); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	p := &pass{Reconciler: r, cluster: cluster, before: cluster.Status.DeepCopy(), notes: make(map[ledger.ShardID]string)}
	err := p.run(ctx)
	if p.released {
		return reconcile.Result{}, err
	}
	if apierrors.IsConflict(err) { // what was read has changed meanwhile
		p.Log.Debug("look again", "cluster", request.String(), "error", err)
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if reported := p.report(ctx, err); reported != nil {
		err = errors.Join(err, reported)
	}
	if err != nil {
		return reconcile.Result{}, err // and again, with back-off
	}
	if p.busy() {
		return reconcile.Result{RequeueAfter: orDefault(r.Busy, 5*time.Second)}, nil
	}
	return reconcile.Result{RequeueAfter: orDefault(r.Idle, 30*time.Second)}, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func (r *Reconciler) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// pass is one look, and what follows from it.
type pass struct {
	*Reconciler
	cluster *v1alpha1.LedgerCluster
	before  *v1alpha1.LedgerClusterStatus

	logins   logins
	engine   engine
	ledger   Ledger
	registry *Registry // nil: not known
	running  map[ledger.ShardID]running
	claims   map[ledger.ShardID]*corev1.PersistentVolumeClaim
	plan     plan
	answers  map[ledger.ShardID]Answer // of those that did

	released bool // the LedgerCluster is gone
	blocked  []problem
	scaling  []problem
	notes    map[ledger.ShardID]string
}

// problem is a condition's reason and message.
type problem struct{ reason, message string }

func (p *pass) block(reason, format string, args ...any) {
	p.blocked = append(p.blocked, problem{reason, fmt.Sprintf(format, args...)})
}

func (p *pass) scale(reason, format string, args ...any) {
	p.scaling = append(p.scaling, problem{reason, fmt.Sprintf(format, args...)})
}

// note says about a shard what a person should know.
func (p *pass) note(id ledger.ShardID, format string, args ...any) {
	if p.notes[id] != "" {
		p.notes[id] += "; "
	}
	p.notes[id] += fmt.Sprintf(format, args...)
}

func (p *pass) busy() bool { return len(p.blocked) > 0 || len(p.scaling) > 0 }

// event tells what was done, about a shard or "", to whoever describes the LedgerCluster. Events that differ in their texts
// alone would be taken for one that comes again, so what runs the shard is named as well.
func (p *pass) event(id ledger.ShardID, reason, action, format string, args ...any) {
	var about runtime.Object
	if id != "" {
		about = p.engine.object(id)
	}
	p.Events.Eventf(p.cluster, about, corev1.EventTypeNormal, reason, action, format, args...)
	p.Log.Info(fmt.Sprintf(format, args...), "cluster", client.ObjectKeyFromObject(p.cluster).String())
}

// run looks and acts. An error is the API server's; whatever else is in the way is noted, and shown by report.
func (p *pass) run(ctx context.Context) error {
	deleting := p.cluster.DeletionTimestamp != nil
	if !deleting && !controllerutil.ContainsFinalizer(p.cluster, finalizer) {
		if err := change(ctx, p.Client, p.cluster, func() { controllerutil.AddFinalizer(p.cluster, finalizer) }); err != nil {
			return fmt.Errorf("put the finalizer on: %w", err)
		}
	}
	known, err := p.readLogins(ctx)
	if err != nil {
		return err
	}
	p.engine = p.newEngine()
	if deleting && p.cluster.Annotations[annotationRelease] != "" {
		return p.release(ctx)
	}
	if !known {
		return nil
	}
	to, err := p.connection(ctx)
	if err != nil || to == nil {
		return err
	}
	p.ledger, err = p.Connect(ctx, *to)
	if err != nil {
		p.block("RegistryUnreachable", "the registry cannot be reached, so it is not known who owns what, and nothing is made or removed: %v", err)
		return nil
	}
	defer p.ledger.Close()
	registry, err := p.ledger.Look(ctx)
	if err != nil {
		p.block("RegistryUnreachable", "the registry cannot be read, so it is not known who owns what, and nothing is made or removed: %v", err)
		return nil
	}
	p.registry = registry
	if err := p.look(ctx); err != nil {
		return err
	}
	if !registry.Created {
		return p.begin(ctx)
	}
	if other := p.another(); other != nil {
		p.block("AnotherRegistry", "%s is of cluster %s, and the registry under %s is that of cluster %s: name the right one, or restore etcd; "+
			"nothing is made or removed by what another cluster says",
			other.GetName(), other.GetAnnotations()[annotationRegistry], p.cluster.Spec.Etcd.Prefix, registry.Cluster)
		return nil
	}
	objects, claims := p.ids()
	wanted := int(p.cluster.Spec.Shards)
	if deleting {
		wanted = 0
	}
	p.plan = makePlan(seen{wanted: wanted, registry: registry, objects: objects, claims: claims, host: p.engine.host})
	p.ask(ctx)
	if deleting {
		return p.remove(ctx)
	}
	return errors.Join(p.tidy(ctx), p.grow(ctx), p.shrink(ctx), p.renew(ctx))
}

// look reads what runs shards, and what volumes there are.
func (p *pass) look(ctx context.Context) error {
	list, err := p.engine.list(ctx)
	if err != nil {
		return err
	}
	p.running = make(map[ledger.ShardID]running)
	for _, r := range list {
		p.running[r.id] = r
	}
	claims, err := listClaims(ctx, p.Client, p.cluster)
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	p.claims = make(map[ledger.ShardID]*corev1.PersistentVolumeClaim)
	for i := range claims {
		p.claims[ledger.ShardID(claims[i].Labels[labelShard])] = &claims[i]
	}
	return nil
}

func (p *pass) ids() (objects, claims map[ledger.ShardID]bool) {
	objects, claims = make(map[ledger.ShardID]bool), make(map[ledger.ShardID]bool)
	for id := range p.running {
		objects[id] = true
	}
	for id := range p.claims {
		claims[id] = true
	}
	return objects, claims
}

// part returns the members of a part.
func (p *pass) part(part part) (members []member) {
	for _, m := range p.plan.members {
		if m.part == part {
			members = append(members, m)
		}
	}
	return members
}

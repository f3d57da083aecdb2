package operator_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator"
	"github.com/saldo-ledger/saldo/internal/operator/operatortest"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

const (
	namespace = "bank"
	finalizer = "ledger.saldo.dev/shards"
)

// fataler is a test, or a property that is tried.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// world is an API server, those controllers of Kubernetes that matter, a cluster, and an operator. Whatever the operator
// does is watched: it must never end what a shard needs.
type world struct {
	fataler
	api       client.WithWatch // by which the world itself acts
	operators client.WithWatch // by which the operator does
	ledger    *operatortest.Fake
	events    *events.FakeRecorder
	it        *operator.Reconciler

	mu      sync.Mutex
	calls   int                                  // of the operator, to Kubernetes and to the cluster
	trouble func(call int) (before, after error) // what becomes of a call; may be nil
	allowed map[string]bool                      // objects that somebody has said may go
}

// newWorld is a world in memory.
func newWorld(t fataler) *world {
	t.Helper()
	api := fake.NewClientBuilder().WithScheme(newScheme(t)).
		WithStatusSubresource(&v1alpha1.LedgerCluster{}, &appsv1.StatefulSet{}).
		Build()
	return newWorldAt(t, api, api)
}

// newWorldAt is one whose API server is reached by everybody, and by the operator.
func newWorldAt(t fataler, api, operators client.WithWatch) *world {
	t.Helper()
	w := &world{
		fataler: t, api: api, operators: operators, ledger: operatortest.NewFake(), events: events.NewFakeRecorder(100_000),
		allowed: make(map[string]bool),
	}
	for _, secret := range []*corev1.Secret{secret("services", "app"), secret("owners", "owner")} {
		w.somebody(api.Create(context.Background(), secret))
	}
	w.it = w.operator()
	return w
}

func newScheme(t fataler) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return scheme
}

// operator is one more operator.
func (w *world) operator() *operator.Reconciler {
	return &operator.Reconciler{
		Client: w.watched(), Events: w.events, Log: slog.New(slog.DiscardHandler),
		Connect: func(context.Context, operator.Connection) (operator.Ledger, error) { return troubled{w.ledger, w}, nil },
		Busy:    time.Second, Idle: time.Minute,
	}
}

func secret(name, user string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Data:       map[string][]byte{"username": []byte(user), "password": []byte("secret")},
	}
}

// call counts a call of the operator, and says what becomes of it.
func (w *world) call(do func() error) error {
	w.mu.Lock()
	w.calls++
	call, trouble := w.calls, w.trouble
	w.mu.Unlock()
	if trouble == nil {
		return do()
	}
	before, after := trouble(call)
	if before != nil {
		return before
	}
	if err := do(); err != nil {
		return err
	}
	return after
}

// watched is the API server as the operator has it.
func (w *world) watched() client.Client {
	return interceptor.NewClient(w.operators, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, into client.Object, opts ...client.GetOption) error {
			return w.call(func() error { return c.Get(ctx, key, into, opts...) })
		},
		List: func(ctx context.Context, c client.WithWatch, into client.ObjectList, opts ...client.ListOption) error {
			return w.call(func() error { return c.List(ctx, into, opts...) })
		},
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.CreateOption) error {
			if len(object.GetOwnerReferences()) > 0 {
				w.Errorf("%T %s is made to go with something else", object, object.GetName())
			}
			if _, ok := object.(*appsv1.StatefulSet); ok && !slices.Contains(object.GetFinalizers(), finalizer) {
				w.Errorf("StatefulSet %s is made without what keeps it", object.GetName())
			}
			return w.call(func() error { return c.Create(ctx, object, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.DeleteOption) error {
			return w.call(func() error {
				w.mayGo(object)
				return c.Delete(ctx, object, opts...)
			})
		},
		DeleteAllOf: func(context.Context, client.WithWatch, client.Object, ...client.DeleteAllOfOption) error {
			w.Errorf("the operator deletes all of something")
			return errors.New("never")
		},
		Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
			w.Errorf("the operator updates without a patch, which it has no right to")
			return errors.New("never")
		},
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return w.call(func() error {
				before := object.DeepCopyObject().(client.Object)
				if err := w.api.Get(ctx, client.ObjectKeyFromObject(object), before); err == nil {
					bare := slices.Contains(before.GetFinalizers(), finalizer) && !slices.Contains(object.GetFinalizers(), finalizer)
					if _, ours := object.(*v1alpha1.LedgerCluster); bare && !ours {
						w.mayGo(object)
					}
					w.keepsWhatItHas(before, object)
				}
				return c.Patch(ctx, object, patch, opts...)
			})
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, object client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return w.call(func() error { return c.SubResource(name).Patch(ctx, object, patch, opts...) })
		},
	})
}

// mayGo makes sure that nothing goes, or loses what keeps it, whose shard may own slots.
func (w *world) mayGo(object client.Object) {
	id := ledger.ShardID(object.GetLabels()["ledger.saldo.dev/shard"])
	if service, ok := object.(*corev1.Service); ok {
		id = ledger.ShardID(service.Name[strings.LastIndex(service.Name, "-")+1:])
	}
	if w.allowed[object.GetName()] {
		return
	}
	switch object.(type) {
	case *corev1.Pod, *corev1.PersistentVolumeClaim:
		if slices.Contains(object.GetFinalizers(), finalizer) || object.GetDeletionTimestamp() == nil && object.GetLabels()["ledger.saldo.dev/retired"] == "" {
			w.Errorf("the operator lets %T %s go", object, object.GetName())
		}
	}
	if why := w.ledger.Holds(id); why != "" {
		w.Errorf("the operator lets %T %s go, but %s", object, object.GetName(), why)
	}
}

// keepsWhatItHas makes sure that no patch takes a server away.
func (w *world) keepsWhatItHas(before, after client.Object) {
	if set, ok := after.(*appsv1.StatefulSet); ok {
		if *set.Spec.Replicas != 1 || set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
			w.Errorf("the operator takes the server of %s away", set.Name)
		}
	}
	asleep := func(o client.Object) bool { return o.GetAnnotations()["cnpg.io/hibernation"] == "on" }
	if asleep(after) && !asleep(before) {
		w.mayGo(after)
	}
}

// troubled is the cluster as the operator has it.
type troubled struct {
	operator.Ledger
	w *world
}

func (l troubled) Look(ctx context.Context) (r *operator.Registry, err error) {
	err = l.w.call(func() (err error) { r, err = l.Ledger.Look(ctx); return err })
	return r, err
}
func (l troubled) Create(ctx context.Context, n int) error {
	return l.w.call(func() error { return l.Ledger.Create(ctx, n) })
}
func (l troubled) Join(ctx context.Context, id ledger.ShardID, dsn string) error {
	return l.w.call(func() error { return l.Ledger.Join(ctx, id, dsn) })
}
func (l troubled) Retire(ctx context.Context, id ledger.ShardID) error {
	return l.w.call(func() error { return l.Ledger.Retire(ctx, id) })
}
func (l troubled) Drain(ctx context.Context, id ledger.ShardID) error {
	return l.w.call(func() error { return l.Ledger.Drain(ctx, id) })
}
func (l troubled) Activate(ctx context.Context, id ledger.ShardID) error {
	return l.w.call(func() error { return l.Ledger.Activate(ctx, id) })
}
func (l troubled) Remove(ctx context.Context, id ledger.ShardID) error {
	return l.w.call(func() error { return l.Ledger.Remove(ctx, id) })
}

// newCluster is a LedgerCluster as people make them.
func newCluster(shards int32) *v1alpha1.LedgerCluster {
	return &v1alpha1.LedgerCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main"},
		Spec: v1alpha1.LedgerClusterSpec{
			Shards: shards, Slots: 4096, Rebalance: v1alpha1.RebalanceAuto,
			Postgres: v1alpha1.Postgres{
				Mode: v1alpha1.ModeStatefulSet, Image: "postgres:17.5", Instances: 3, Storage: v1alpha1.Storage{Size: resource.MustParse("1Gi")},
			},
			Etcd:           v1alpha1.Etcd{Endpoints: []string{"http://etcd:2379"}, Prefix: "/saldo/default/"},
			PasswordSecret: v1alpha1.SecretReference{Name: "services"}, OwnerSecret: &v1alpha1.SecretReference{Name: "owners"},
		},
	}
}

// want has a LedgerCluster say how many shards there are to be.
func (w *world) want(shards int32, change ...func(*v1alpha1.LedgerCluster)) {
	w.Helper()
	cluster := newCluster(shards)
	err := w.api.Get(context.Background(), client.ObjectKeyFromObject(cluster), cluster)
	there := err == nil
	cluster.Spec.Shards = shards
	for _, change := range change {
		change(cluster)
	}
	if there {
		err = w.api.Update(context.Background(), cluster)
	} else {
		err = w.api.Create(context.Background(), cluster)
	}
	if err != nil {
		w.Fatalf("want %d shards: %v", shards, err)
	}
}

// reconciles has the operator look once.
func (w *world) reconciles() error { return w.reconcilesAs(w.it) }

func (w *world) reconcilesAs(it *operator.Reconciler) error {
	_, err := it.Reconcile(context.Background(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: "main"}})
	return err
}

// turns has everybody act once: the operator, Kubernetes, the coordinators.
func (w *world) turns() error {
	err := w.reconciles()
	w.kubernetes()
	w.ledger.Move(1024)
	return err
}

// settles has everybody act until nothing changes any more.
func (w *world) settles() {
	w.Helper()
	for range 60 {
		before := w.shows()
		for range 3 { // a move takes two turns, and a look at it one more
			if err := w.turns(); err != nil {
				w.Fatalf("reconcile: %v", err)
			}
		}
		if w.shows() == before {
			return
		}
	}
	w.Fatalf("it never settles:\n%s", w.shows())
}

// kubernetes does what its controllers do: a StatefulSet gets its claim and its pod.
func (w *world) kubernetes() {
	w.Helper()
	ctx := context.Background()
	var sets appsv1.StatefulSetList
	if err := w.api.List(ctx, &sets, client.InNamespace(namespace)); err != nil {
		w.Fatalf("%v", err)
	}
	for i := range sets.Items {
		set := &sets.Items[i]
		if set.DeletionTimestamp != nil {
			continue
		}
		template := set.Spec.VolumeClaimTemplates[0]
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: "data-" + set.Name + "-0", Labels: template.Labels, Annotations: template.Annotations}, Spec: template.Spec,
		}
		if !w.get(new(corev1.PersistentVolumeClaim), claim.Name) {
			w.somebody(w.api.Create(ctx, claim))
		}
		status := appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, Replicas: 1, ReadyReplicas: *set.Spec.Replicas}
		if set.Status.ObservedGeneration != status.ObservedGeneration || set.Status.ReadyReplicas != status.ReadyReplicas {
			set.Status = status
			w.somebody(w.api.Status().Update(ctx, set))
		}
	}
	list := clusters()
	if err := w.api.List(ctx, list); err != nil && !meta.IsNoMatchError(err) {
		w.Fatalf("%v", err)
	}
	for i := range list.Items {
		cluster := &list.Items[i]
		primary, servers := cluster.GetName()+"-1", int64(3)
		if cluster.GetAnnotations()["cnpg.io/hibernation"] == "on" {
			servers = 0
		}
		cluster.Object["status"] = map[string]any{"currentPrimary": primary, "targetPrimary": primary, "readyInstances": servers}
		w.somebody(w.api.Update(ctx, cluster))
	}
}

// shows is all that there is, for comparisons and messages.
func (w *world) shows() string {
	w.Helper()
	ctx := context.Background()
	var lines []string
	for _, list := range []client.ObjectList{&appsv1.StatefulSetList{}, &corev1.ServiceList{}, &corev1.PersistentVolumeClaimList{}, clusters()} {
		if err := w.api.List(ctx, list, client.InNamespace(namespace)); err != nil && !meta.IsNoMatchError(err) {
			w.Fatalf("%v", err)
		}
		objects, err := meta.ExtractList(list)
		if err != nil {
			w.Fatalf("%v", err)
		}
		for _, o := range objects {
			object := o.(client.Object)
			line := fmt.Sprintf("%T %s", o, object.GetName())
			if object.GetLabels()["ledger.saldo.dev/retired"] != "" {
				line += " retired"
			}
			if object.GetDeletionTimestamp() != nil {
				line += " deleted"
			}
			if slices.Contains(object.GetFinalizers(), finalizer) {
				line += " kept"
			}
			lines = append(lines, line)
		}
	}
	lines = append(lines, "registry: "+strings.Join(w.ledger.Owners(), " "))
	for _, c := range w.status().Conditions {
		lines = append(lines, fmt.Sprintf("%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(lines, "\n")
}

func clusters() *unstructured.UnstructuredList {
	list := new(unstructured.UnstructuredList)
	list.SetAPIVersion("postgresql.cnpg.io/v1")
	list.SetKind("ClusterList")
	return list
}

func (w *world) status() v1alpha1.LedgerClusterStatus {
	var cluster v1alpha1.LedgerCluster
	_ = w.api.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: "main"}, &cluster)
	return cluster.Status
}

// is makes sure of a condition.
func (w *world) is(kind string, status metav1.ConditionStatus, reason string) {
	w.Helper()
	c := meta.FindStatusCondition(w.status().Conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason {
		w.Errorf("%s is %+v, not %s %s", kind, c, status, reason)
	}
}

// owners makes sure of who owns how many slots.
func (w *world) owners(want ...string) {
	w.Helper()
	if got := w.ledger.Owners(); !slices.Equal(got, want) {
		w.Errorf("the registry has %v, not %v\n%s", got, want, w.shows())
	}
}

func (w *world) get(object client.Object, name string) bool {
	return w.api.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, object) == nil
}

func (w *world) set(id string) *appsv1.StatefulSet {
	set := new(appsv1.StatefulSet)
	if !w.get(set, "main-"+id) {
		return nil
	}
	return set
}

func (w *world) claim(id string) *corev1.PersistentVolumeClaim {
	claim := new(corev1.PersistentVolumeClaim)
	if !w.get(claim, "data-main-"+id+"-0") {
		return nil
	}
	return claim
}

// somebody does something that the operator does not.
func (w *world) somebody(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("somebody: %v", err)
	}
}

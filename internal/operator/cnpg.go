package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// clusterKind is CloudNativePG's resource. It is written by its words: that project's Go types would bring all of it along.
var clusterKind = schema.GroupVersionKind{Group: "postgresql.cnpg.io", Version: "v1", Kind: "Cluster"}

// hibernation, when on, has CloudNativePG end a cluster's servers and keep their volumes.
const hibernation = "cnpg.io/hibernation"

// cloudNativePG has CloudNativePG run each shard's Postgres: a primary, and standbys of which one has every commit before it
// is acknowledged.
type cloudNativePG struct {
	client  client.Client
	cluster *v1alpha1.LedgerCluster
	logins  logins
	now     func() time.Time
}

func (c *cloudNativePG) object(id ledger.ShardID) client.Object {
	object := new(unstructured.Unstructured)
	object.SetGroupVersionKind(clusterKind)
	object.SetNamespace(c.cluster.Namespace)
	object.SetName(objectName(c.cluster, id))
	return object
}

// host is the Service that follows the primary.
func (c *cloudNativePG) host(id ledger.ShardID) string {
	return fmt.Sprintf("%s-rw.%s.svc", objectName(c.cluster, id), c.cluster.Namespace)
}

// keepsRows is false: a Cluster that is made anew begins with an empty database, whatever volumes there are.
func (c *cloudNativePG) keepsRows(map[ledger.ShardID]bool, ledger.ShardID) bool { return false }

func (c *cloudNativePG) list(ctx context.Context) ([]running, error) {
	list := new(unstructured.UnstructuredList)
	list.SetGroupVersionKind(clusterKind.GroupVersion().WithKind(clusterKind.Kind + "List"))
	err := c.client.List(ctx, list, client.InNamespace(c.cluster.Namespace), client.MatchingLabels{labelCluster: c.cluster.Name})
	if err != nil {
		return nil, fmt.Errorf("list CloudNativePG's Clusters: %w", err)
	}
	var all []running
	for i := range list.Items {
		object := &list.Items[i]
		id := ledger.ShardID(object.GetLabels()[labelShard])
		_, ok := ordinalOf(id)
		asleep := object.GetLabels()[labelRetired] != "" && !controllerutil.ContainsFinalizer(object, finalizer)
		if !ok || asleep || object.GetName() != objectName(c.cluster, id) {
			continue
		}
		spec, err := c.spec(id)
		if err != nil {
			return nil, err
		}
		hash, err := hashOf(spec)
		if err != nil {
			return nil, err
		}
		instances, _, _ := unstructured.NestedInt64(object.Object, "spec", "instances")
		ready, _, _ := unstructured.NestedInt64(object.Object, "status", "readyInstances")
		all = append(all, running{
			id: id, object: object, deleting: object.GetDeletionTimestamp() != nil,
			ready: settled(object) && ready >= min(instances, 2), // commits wait for one standby
			current: object.GetAnnotations()[annotationTemplate] == hash && object.GetAnnotations()[hibernation] != "on" &&
				controllerutil.ContainsFinalizer(object, finalizer),
		})
	}
	return all, nil
}

// settled tells whether a cluster has the primary that it should have. Its phase is for people, and says more.
func settled(object *unstructured.Unstructured) bool {
	current, _, _ := unstructured.NestedString(object.Object, "status", "currentPrimary")
	target, _, _ := unstructured.NestedString(object.Object, "status", "targetPrimary")
	return current != "" && current == target
}

// durable trusts only what was asked for in whole: a commit waits for a standby in any case, and a standby is promoted only
// if it, or one that answers, is sure to have every commit that was acknowledged.
func (c *cloudNativePG) durable(r running) string {
	object := r.object.(*unstructured.Unstructured)
	synchronous, _, _ := unstructured.NestedMap(object.Object, "spec", "postgresql", "synchronous")
	number, _, _ := unstructured.NestedInt64(synchronous, "number")
	durability, _, _ := unstructured.NestedString(synchronous, "dataDurability")
	quorum, _, _ := unstructured.NestedBool(synchronous, "failoverQuorum")
	switch {
	case number < 1 || durability != "required":
		return "its commits do not wait for a standby in any case"
	case !quorum:
		return "a standby may be promoted without a quorum (failoverQuorum is off)"
	case !settled(object):
		return "its failover is not over"
	}
	return ""
}

func (c *cloudNativePG) make(ctx context.Context, id ledger.ShardID, uid string) error {
	spec, err := c.spec(id)
	if err != nil {
		return err
	}
	hash, err := hashOf(spec)
	if err != nil {
		return err
	}
	object := c.object(id).(*unstructured.Unstructured)
	object.Object["spec"] = spec
	object.SetLabels(labelsOf(c.cluster, id))
	object.SetAnnotations(map[string]string{annotationTemplate: hash, annotationRegistry: uid})
	object.SetFinalizers([]string{finalizer})
	if err := create(ctx, c.client, object); err != nil {
		return fmt.Errorf("create CloudNativePG's Cluster %s: %w", object.GetName(), err)
	}
	return nil
}

func (c *cloudNativePG) update(ctx context.Context, r running) error {
	object := r.object.(*unstructured.Unstructured)
	spec, err := c.spec(r.id)
	if err != nil {
		return err
	}
	hash, err := hashOf(spec)
	if err != nil {
		return err
	}
	err = change(ctx, c.client, object, func() {
		old, _, _ := unstructured.NestedMap(object.Object, "spec")
		object.Object["spec"] = overlay(old, spec)
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = make(map[string]string)
		}
		annotations[annotationTemplate] = hash
		delete(annotations, hibernation)
		object.SetAnnotations(annotations)
		if object.GetDeletionTimestamp() == nil {
			controllerutil.AddFinalizer(object, finalizer)
		}
	})
	if err != nil {
		return fmt.Errorf("update CloudNativePG's Cluster %s: %w", object.GetName(), err)
	}
	return nil
}

// retire has it sleep. Its volumes belong to it, and would be deleted with it: that is left to a person.
func (c *cloudNativePG) retire(ctx context.Context, r running) error {
	err := change(ctx, c.client, r.object, func() {
		retireMarks(r.object, c.now())
		annotations := r.object.GetAnnotations()
		annotations[hibernation] = "on"
		r.object.SetAnnotations(annotations)
		controllerutil.RemoveFinalizer(r.object, finalizer)
	})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("hibernate CloudNativePG's Cluster %s: %w", r.object.GetName(), err)
	}
	return nil
}

func (c *cloudNativePG) release(ctx context.Context, r running) error {
	if err := unfinalize(ctx, c.client, r.object); err != nil {
		return fmt.Errorf("take the finalizer off CloudNativePG's Cluster %s: %w", r.object.GetName(), err)
	}
	return nil
}

// spec of a Cluster: what the LedgerCluster adds, and above it what must be so.
func (c *cloudNativePG) spec(id ledger.ShardID) (map[string]any, error) {
	postgres := c.cluster.Spec.Postgres
	added := make(map[string]any)
	if postgres.ClusterTemplate != nil && len(postgres.ClusterTemplate.Raw) > 0 {
		if err := json.Unmarshal(postgres.ClusterTemplate.Raw, &added); err != nil {
			return nil, fmt.Errorf("spec.postgres.clusterTemplate: %w", err)
		}
	}
	owner := `"` + c.logins.owner + `"` // a plain name
	ours := map[string]any{
		"instances":             int64(postgres.Instances),
		"enableSuperuserAccess": false,
		"smartShutdownTimeout":  int64(0), // no client goes by itself: they are pools
		"inheritedMetadata":     map[string]any{"labels": anyMap(labelsOf(c.cluster, id))},
		"storage":               map[string]any{"size": postgres.Storage.Size.String()},
		"postgresql": map[string]any{
			"synchronous": map[string]any{
				"method": "any", "number": int64(1), "dataDurability": "required", "failoverQuorum": true,
			},
			"parameters": anyMap(postgres.Parameters),
		},
		"bootstrap": map[string]any{"initdb": map[string]any{
			"database": database, "owner": c.logins.owner, "secret": map[string]any{"name": c.logins.ownerSecret},
			"dataChecksums": true, "encoding": "UTF8", "localeCollate": "C.UTF-8", "localeCType": "C.UTF-8",
			// The owner is no superuser: it is given the roles that migrations would make, and what an adoption reads.
			"postInitSQL": []any{
				"create role saldo_service nologin",
				"create role saldo_mover nologin",
				"grant saldo_service, saldo_mover, pg_read_all_stats to " + owner,
			},
			"postInitApplicationSQL": []any{
				"grant execute on function pg_read_file(text) to " + owner,
			},
		}},
	}
	if postgres.Image != "" {
		ours["imageName"] = postgres.Image
	}
	if class := postgres.Storage.ClassName; class != nil {
		ours["storage"].(map[string]any)["storageClass"] = *class
	}
	resources, err := json.Marshal(postgres.Resources)
	if err != nil {
		return nil, err
	}
	var asMap map[string]any
	if err := json.Unmarshal(resources, &asMap); err != nil {
		return nil, err
	}
	if len(asMap) > 0 {
		ours["resources"] = asMap
	}
	if c.logins.ownerIsAnother {
		ours["managed"] = map[string]any{"roles": []any{map[string]any{
			"name": c.logins.user, "ensure": "present", "login": true, "inRoles": []any{"saldo_service", "saldo_mover"},
			"passwordSecret": map[string]any{"name": c.logins.secretName},
		}}}
	}
	return overlay(added, ours), nil
}

// overlay lays a map over another one, key by key. Lists are replaced.
func overlay(under, over map[string]any) map[string]any {
	out := make(map[string]any, len(under)+len(over))
	for key, value := range under {
		out[key] = value
	}
	for key, value := range over {
		lower, ok1 := out[key].(map[string]any)
		upper, ok2 := value.(map[string]any)
		if ok1 && ok2 {
			value = overlay(lower, upper)
		}
		out[key] = value
	}
	return out
}

func anyMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for key, value := range m {
		out[key] = value
	}
	return out
}

var _ = []engine{(*statefulSets)(nil), (*cloudNativePG)(nil)}

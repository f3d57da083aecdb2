package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// engine is a way to run the Postgres of a cluster's shards. Each method may be called again after an error.
type engine interface {
	// list returns what runs shards.
	list(ctx context.Context) ([]running, error)
	// make creates what runs a shard of the cluster of this uid, on the volume that the shard has left, if it has. Its being
	// there already is no error.
	make(ctx context.Context, id ledger.ShardID, uid string) error
	// update gives it the template of today, and undoes what must not be.
	update(ctx context.Context, r running) error
	// retire ends what ran a shard that has left, and keeps its volume.
	retire(ctx context.Context, r running) error
	// release takes the finalizer off, and lets it run.
	release(ctx context.Context, r running) error
	// object names what runs a shard, whether that is there or not.
	object(id ledger.ShardID) client.Object
	// host is where the shard is reached, for ever.
	host(id ledger.ShardID) string
	// keepsRows tells whether the shard can be run on a volume that is there.
	keepsRows(claims map[ledger.ShardID]bool, id ledger.ShardID) bool
	// durable says why a primary that was promoted may lack what was acknowledged; "" if it cannot.
	durable(r running) string
}

// running is what runs a shard.
type running struct {
	id       ledger.ShardID
	object   client.Object
	ready    bool // its Postgres takes connections, and nothing is being changed
	current  bool // it is of the template of today
	deleting bool // somebody wants it gone
	recreate bool // and says that it is to be made anew
}

// logins are how a shard's Postgres is logged in to.
type logins struct {
	user, password          string
	owner, ownerPassword    string
	secretName, ownerSecret string
	ownerIsAnother          bool
}

// hashOf is short enough for an annotation, and tells templates apart.
func hashOf(template any) (string, error) {
	text, err := json.Marshal(template)
	if err != nil {
		return "", fmt.Errorf("hash a template: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// create makes an object that must be there. Another one's of the same name is an error.
func create(ctx context.Context, c client.Client, object client.Object) error {
	err := c.Create(ctx, object)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	labels := object.GetLabels()
	if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return err
	}
	for _, label := range []string{labelCluster, labelShard} {
		if object.GetLabels()[label] != labels[label] {
			return fmt.Errorf("%s is there already, and not of this cluster: rename it, or the LedgerCluster", object.GetName())
		}
	}
	return nil
}

// change patches an object by what do does to it, if it is still as it was read.
func change(ctx context.Context, c client.Client, object client.Object, do func()) error {
	before := object.DeepCopyObject().(client.Object)
	do()
	return c.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// unfinalize takes the finalizer off.
func unfinalize(ctx context.Context, c client.Client, object client.Object) error {
	if !controllerutil.ContainsFinalizer(object, finalizer) {
		return nil
	}
	return client.IgnoreNotFound(change(ctx, c, object, func() { controllerutil.RemoveFinalizer(object, finalizer) }))
}

// listClaims returns the volumes of a cluster's shards.
func listClaims(ctx context.Context, c client.Client, cluster *v1alpha1.LedgerCluster) ([]corev1.PersistentVolumeClaim, error) {
	var claims corev1.PersistentVolumeClaimList
	err := c.List(ctx, &claims, client.InNamespace(cluster.Namespace), client.MatchingLabels{labelCluster: cluster.Name})
	return claims.Items, err
}

// protectClaim makes sure that a claim whose rows are needed does not go, whoever deletes it.
func protectClaim(ctx context.Context, c client.Client, claim *corev1.PersistentVolumeClaim) error {
	if controllerutil.ContainsFinalizer(claim, finalizer) || claim.DeletionTimestamp != nil {
		return nil
	}
	return change(ctx, c, claim, func() { controllerutil.AddFinalizer(claim, finalizer) })
}

// retireClaim marks a claim as one whose rows nobody needs any more. It stays for a person to delete.
func retireClaim(ctx context.Context, c client.Client, claim *corev1.PersistentVolumeClaim, now time.Time) error {
	if claim.Labels[labelRetired] != "" && !slices.Contains(claim.Finalizers, finalizer) {
		return nil
	}
	return change(ctx, c, claim, func() {
		controllerutil.RemoveFinalizer(claim, finalizer)
		retireMarks(claim, now)
	})
}

func retireMarks(object client.Object, now time.Time) {
	labels, annotations := object.GetLabels(), object.GetAnnotations()
	if labels == nil {
		labels = make(map[string]string)
	}
	if annotations == nil {
		annotations = make(map[string]string)
	}
	if labels[labelRetired] == "" {
		labels[labelRetired] = "true"
		annotations[annotationRetiredAt] = now.UTC().Format(time.RFC3339)
	}
	object.SetLabels(labels)
	object.SetAnnotations(annotations)
}

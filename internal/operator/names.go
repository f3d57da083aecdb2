package operator

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

const group = "ledger.saldo.dev/"

const (
	// Labels of everything that runs a shard.
	labelCluster = group + "cluster"
	labelShard   = group + "shard"

	// labelRetired, of what stays when a shard has left: its claim, or a CloudNativePG cluster that sleeps.
	labelRetired = group + "retired"
	// annotationRetiredAt says when.
	annotationRetiredAt = group + "retired-at"

	// finalizer keeps a LedgerCluster, and what runs a shard and holds its rows, from going while that may own slots.
	finalizer = group + "shards"

	// annotationRegistry is the uid of the cluster that something runs a shard of.
	annotationRegistry = group + "registry"

	// annotationTemplate is the hash of the template that was applied last.
	annotationTemplate = group + "template"

	// What people say: on a LedgerCluster that is being deleted, that its shards go on without it; on a StatefulSet that is
	// being deleted, that it may go, to be made anew on the same volume.
	annotationRelease  = group + "release"
	annotationRecreate = group + "recreate"
)

// shardID is the id of the shard of an ordinal.
func shardID(ordinal int) ledger.ShardID { return ledger.ShardID(fmt.Sprintf("s%d", ordinal)) }

// ordinalOf is the reverse of shardID.
func ordinalOf(id ledger.ShardID) (ordinal int, ok bool) {
	digits, ok := strings.CutPrefix(string(id), "s")
	ordinal, err := strconv.Atoi(digits)
	return ordinal, ok && err == nil && ordinal > 0 && shardID(ordinal) == id
}

// objectName is the name of what runs a shard.
func objectName(cluster *v1alpha1.LedgerCluster, id ledger.ShardID) string {
	return cluster.Name + "-" + string(id)
}

// labelsOf are on everything that runs a shard, its pods among them.
func labelsOf(cluster *v1alpha1.LedgerCluster, id ledger.ShardID) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":       "saldo",
		"app.kubernetes.io/component":  "shard",
		"app.kubernetes.io/managed-by": "saldo-operator",
		labelCluster:                   cluster.Name,
		labelShard:                     string(id),
	}
}

// selectorOf finds the pods of all shards of a cluster.
func selectorOf(cluster *v1alpha1.LedgerCluster) string {
	return "app.kubernetes.io/component=shard," + labelCluster + "=" + cluster.Name
}

// ClusterOf returns the LedgerCluster that an object runs a shard of.
func ClusterOf(_ context.Context, object client.Object) []reconcile.Request {
	name := object.GetLabels()[labelCluster]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Namespace: object.GetNamespace(), Name: name}}}
}

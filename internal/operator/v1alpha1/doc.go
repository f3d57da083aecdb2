// Package v1alpha1 is the resource by which Kubernetes is told how many shards a cluster is to have: LedgerCluster, of the
// group ledger.saldo.dev.
//
// It owns the words of the resource and nothing else. Its schema, with defaults, limits and what cannot be changed, stands
// in deploy/k8s/operator/crd; a test keeps the two alike.
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the resource.
var GroupVersion = schema.GroupVersion{Group: "ledger.saldo.dev", Version: "v1alpha1"}

// AddToScheme makes a scheme know the resource.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &LedgerCluster{}, &LedgerClusterList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

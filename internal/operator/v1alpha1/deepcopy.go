package v1alpha1

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A test fills every field and holds each copy against its original.

// DeepCopyObject implements runtime.Object.
func (c *LedgerCluster) DeepCopyObject() runtime.Object { return c.DeepCopy() }

// DeepCopy returns a copy that shares nothing.
func (c *LedgerCluster) DeepCopy() *LedgerCluster {
	if c == nil {
		return nil
	}
	return &LedgerCluster{
		TypeMeta: c.TypeMeta, ObjectMeta: *c.ObjectMeta.DeepCopy(), Spec: *c.Spec.DeepCopy(), Status: *c.Status.DeepCopy(),
	}
}

// DeepCopyObject implements runtime.Object.
func (l *LedgerClusterList) DeepCopyObject() runtime.Object { return l.DeepCopy() }

// DeepCopy returns a copy that shares nothing.
func (l *LedgerClusterList) DeepCopy() *LedgerClusterList {
	if l == nil {
		return nil
	}
	out := &LedgerClusterList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopy())
	}
	return out
}

// DeepCopy returns a copy that shares nothing.
func (s *LedgerClusterSpec) DeepCopy() *LedgerClusterSpec {
	out := *s
	out.Postgres = *s.Postgres.DeepCopy()
	out.Etcd = *s.Etcd.DeepCopy()
	out.OwnerSecret = clone(s.OwnerSecret)
	return &out
}

// DeepCopy returns a copy that shares nothing.
func (p *Postgres) DeepCopy() *Postgres {
	out := *p
	out.UserID = clone(p.UserID)
	out.Storage.Size = p.Storage.Size.DeepCopy()
	out.Storage.ClassName = clone(p.Storage.ClassName)
	out.Resources = *p.Resources.DeepCopy()
	out.Parameters = maps.Clone(p.Parameters)
	out.ClusterTemplate = p.ClusterTemplate.DeepCopy()
	return &out
}

// DeepCopy returns a copy that shares nothing.
func (e *Etcd) DeepCopy() *Etcd {
	out := *e
	out.Endpoints = slices.Clone(e.Endpoints)
	out.PasswordSecret = clone(e.PasswordSecret)
	out.TLSSecret = clone(e.TLSSecret)
	return &out
}

// DeepCopy returns a copy that shares nothing.
func (s *LedgerClusterStatus) DeepCopy() *LedgerClusterStatus {
	out := *s
	out.Conditions = nil
	for i := range s.Conditions {
		out.Conditions = append(out.Conditions, *s.Conditions[i].DeepCopy())
	}
	out.Members = slices.Clone(s.Members)
	return &out
}

// clone copies what a pointer leads to, which has no pointers itself.
func clone[T string | int64 | SecretReference](p *T) *T {
	if p == nil {
		return nil
	}
	out := *p
	return &out
}

var _ metav1.Object = (*LedgerCluster)(nil)

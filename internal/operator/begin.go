package operator

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// another returns something that runs a shard of another cluster than the registry's, or holds its rows.
func (p *pass) another() client.Object {
	of := func(object client.Object) bool {
		uid := object.GetAnnotations()[annotationRegistry]
		return uid != "" && uid != p.registry.Cluster && object.GetLabels()[labelRetired] == ""
	}
	for _, r := range p.running {
		if of(r.object) {
			return r.object
		}
	}
	for _, claim := range p.claims {
		if of(claim) {
			return claim
		}
	}
	return nil
}

// begin creates the cluster in the registry: before anything else is made. So where something is there already and the
// registry knows of no cluster, it has lost one.
func (p *pass) begin(ctx context.Context) error {
	for id, claim := range p.claims {
		if claim.Labels[labelRetired] == "" {
			p.lost("the volume of shard %s is there (claim %s)", id, claim.Name)
			return nil
		}
	}
	for id, r := range p.running {
		p.lost("shard %s is there (%s)", id, r.object.GetName())
		return nil
	}
	if p.cluster.DeletionTimestamp != nil {
		return p.letGo(ctx)
	}
	shards := int(p.cluster.Spec.Shards)
	if err := p.ledger.Create(ctx, shards); err != nil {
		p.block("RegistryUnreachable", "the cluster cannot be created in the registry: %v", err)
		return nil
	}
	p.event("", "ClusterCreated", "Create", "created the cluster in the registry, to be founded when %d shards are there", shards)
	p.scale("Founding", "the cluster was created in the registry")
	return nil
}

func (p *pass) lost(format string, args ...any) {
	p.block("RegistryLost", "%s, and the registry under %s knows of no cluster: it was lost, or another one is named. Restore etcd; "+
		"where the rows are of a cluster that is not needed any more, label the claims with %s=true",
		fmt.Sprintf(format, args...), p.cluster.Spec.Etcd.Prefix, labelRetired)
}

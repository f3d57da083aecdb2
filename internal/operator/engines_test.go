package operator_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// The pods of StatefulSets keep to the restricted Pod Security Standard, and to what a shard needs.
func TestPodOfAShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(1, func(c *v1alpha1.LedgerCluster) {
		c.Spec.Postgres.Parameters = map[string]string{"shared_buffers": "1GB", "max_connections": "100"}
		c.Spec.Postgres.UserID = new(int64(70))
	})
	w.settles()
	set := w.set("s1")
	if len(set.OwnerReferences) > 0 {
		t.Errorf("it goes with %v", set.OwnerReferences)
	}
	pod := set.Spec.Template.Spec
	container := pod.Containers[0]
	security := container.SecurityContext
	if !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser != 70 || *pod.SecurityContext.FSGroup != 70 ||
		pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || *pod.AutomountServiceAccountToken ||
		*security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem || security.Capabilities.Drop[0] != "ALL" {
		t.Errorf("it is not restricted: %+v, %+v", pod.SecurityContext, security)
	}
	if want := []string{"postgres", "-c", "max_connections=100", "-c", "shared_buffers=1GB"}; !slices.Equal(container.Args, want) {
		t.Errorf("it runs %v", container.Args)
	}
	// Neither login is the superuser's; both are made with the database.
	init := new(corev1.ConfigMap)
	if !w.get(init, "main-shards") || !strings.Contains(init.Data["1-owner.sql"], "alter database saldo owner to") ||
		!strings.Contains(init.Data["2-services.sql"], "in role saldo_service, saldo_mover") {
		t.Errorf("it is made by %+v", init.Data)
	}
	mounted := func() (names []string) {
		for _, mount := range container.VolumeMounts {
			names = append(names, mount.Name)
		}
		return names
	}
	if got, want := mounted(), []string{"data", "run", "tmp", "shared", "owner", "init", "service"}; !slices.Equal(got, want) {
		t.Errorf("it has %v", got)
	}

	// With one login for all no other one is made.
	w = newWorld(t)
	w.want(1, func(c *v1alpha1.LedgerCluster) { c.Spec.OwnerSecret = nil })
	w.settles()
	pod = w.set("s1").Spec.Template.Spec
	container = pod.Containers[0]
	if got, want := mounted(), []string{"data", "run", "tmp", "shared", "owner", "init"}; !slices.Equal(got, want) ||
		len(pod.Volumes[len(pod.Volumes)-1].ConfigMap.Items) != 1 {
		t.Errorf("with one login it has %v and %+v", got, pod.Volumes)
	}
}

func cnpg(c *v1alpha1.LedgerCluster) {
	c.Spec.Postgres.Mode = v1alpha1.ModeCloudNativePG
	c.Spec.Postgres.ClusterTemplate = &runtime.RawExtension{Raw: []byte(
		`{"instances": 1, "backup": {"retentionPolicy": "30d"}, "postgresql": {"synchronous": {"dataDurability": "preferred"}, "pg_hba": ["x"]}}`)}
}

func (w *world) cluster(id string) *unstructured.Unstructured {
	cluster := new(unstructured.Unstructured)
	cluster.SetAPIVersion("postgresql.cnpg.io/v1")
	cluster.SetKind("Cluster")
	if !w.get(cluster, "main-"+id) {
		return nil
	}
	return cluster
}

// With CloudNativePG it is all the same, but that what ran a shard sleeps in the end.
func TestCloudNativePG(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(2, cnpg)
	w.settles()
	w.owners("s1:2048", "s2:2048")
	spec := w.cluster("s1").Object["spec"]
	for path, want := range map[string]any{
		"instances": int64(3), "backup.retentionPolicy": "30d", "storage.size": "1Gi",
		"postgresql.synchronous.dataDurability": "required", "postgresql.synchronous.failoverQuorum": true,
		"bootstrap.initdb.owner": "owner", "bootstrap.initdb.secret.name": "owners",
	} {
		got, _, err := unstructured.NestedFieldNoCopy(map[string]any{"spec": spec}, append([]string{"spec"}, strings.Split(path, ".")...)...)
		if err != nil || got != want {
			t.Errorf("%s is %v, not %v: %v", path, got, want, err)
		}
	}
	w.want(1)
	w.settles()
	w.owners("s1:4096")
	left := w.cluster("s2")
	if left == nil || left.GetAnnotations()["cnpg.io/hibernation"] != "on" || left.GetLabels()["ledger.saldo.dev/retired"] != "true" || len(left.GetFinalizers()) > 0 {
		t.Errorf("s2 does not sleep: %+v", left)
	}
	w.want(2)
	w.settles()
	w.owners("s1:2048", "s3:2048")

	// Another template reaches it; what others have added stays.
	w.want(2, func(c *v1alpha1.LedgerCluster) { c.Spec.Postgres.Parameters = map[string]string{"work_mem": "8MB"} })
	w.settles()
	if got, _, _ := unstructured.NestedString(w.cluster("s1").Object, "spec", "postgresql", "parameters", "work_mem"); got != "8MB" {
		t.Errorf("work_mem is %q", got)
	}

	// One that is gone is not made anew: it would be empty.
	gone := w.cluster("s1")
	gone.SetFinalizers(nil)
	w.somebody(w.api.Update(t.Context(), gone))
	w.somebody(w.api.Delete(t.Context(), gone))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "ShardLost")
	if w.cluster("s1") != nil {
		t.Error("an empty server stands in for one with money")
	}
}

func TestClusterDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(1, cnpg)
	w.settles()
	w.somebody(w.api.Delete(t.Context(), w.cluster("s1")))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "ShardDeleted")
	if w.cluster("s1") == nil {
		t.Error("it is gone")
	}
}

// A new primary is adopted only if nothing can be missing there.
func TestFailovers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		mode    func(*v1alpha1.LedgerCluster)
		spoil   func(spec map[string]any)
		lost    []string
		adopted bool
	}{
		{"a quorum", cnpg, nil, nil, true},
		{"a known loss", cnpg, nil, []string{"from 0/3000000 to 0/3000100"}, false},
		{"commits that need not wait", cnpg, func(s map[string]any) { s["dataDurability"] = "preferred" }, nil, false},
		{"no standby to wait for", cnpg, func(s map[string]any) { s["number"] = int64(0) }, nil, false},
		{"any standby may be promoted", cnpg, func(s map[string]any) { delete(s, "failoverQuorum") }, nil, false},
		{"one server", func(*v1alpha1.LedgerCluster) {}, nil, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.want(2, test.mode)
			w.settles()
			if test.spoil != nil {
				cluster := w.cluster("s1")
				test.spoil(cluster.Object["spec"].(map[string]any)["postgresql"].(map[string]any)["synchronous"].(map[string]any))
				w.somebody(w.api.Update(t.Context(), cluster))
			}
			w.ledger.FailOver("s1", test.lost...)
			w.settles()
			if _, err := w.ledger.Ask(t.Context(), "s1"); (err == nil) != test.adopted {
				t.Errorf("adopted: %v\n%s", err, w.shows())
			}
			if !test.adopted {
				w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "NotAdopted")
				w.is(v1alpha1.ConditionReady, metav1.ConditionFalse, "ShardAway")
			}
		})
	}
}

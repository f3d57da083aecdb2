package operator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/saldo-ledger/saldo/internal/operator/operatortest"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

const (
	manifests = "../../deploy/k8s/operator"
	account   = "system:serviceaccount:" + namespace + ":saldo-operator"
)

// A real API server: what the resource allows, its scale, and a cluster that is scaled with the rights that the operator has.
func TestAPIServer(t *testing.T) {
	config, _ := operatortest.APIServer(t, filepath.Join(manifests, "crd", "ledger.saldo.dev_ledgerclusters.yaml"))
	api := connect(t, config)
	if err := api.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}); err != nil {
		t.Fatal(err)
	}
	grant(t, api)
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: account, Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	w := newWorldAt(t, api, connect(t, as))

	t.Run("refuses", w.refuses)
	t.Run("scales", w.scales)
	t.Run("lets the operator do no more", w.lacksRights)
}

func connect(t *testing.T, config *rest.Config) client.WithWatch {
	t.Helper()
	scheme := newScheme(t)
	for _, add := range []func(*runtime.Scheme) error{rbacv1.AddToScheme, autoscalingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// grant gives the operator's account its role, as it is deployed.
func grant(t *testing.T, api client.Client) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests, "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(text), "\n---\n") {
		for _, object := range []client.Object{new(rbacv1.Role), new(rbacv1.RoleBinding)} {
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
				continue
			}
			kind := object.GetObjectKind().GroupVersionKind().Kind
			if _, role := object.(*rbacv1.Role); kind == "Role" != role || kind != "Role" && kind != "RoleBinding" {
				continue
			}
			if binding, ok := object.(*rbacv1.RoleBinding); ok {
				binding.Subjects[0].Namespace = namespace
			}
			object.SetNamespace(namespace)
			if err := api.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *world) refuses(t *testing.T) {
	for what, change := range map[string]func(*v1alpha1.LedgerCluster){
		"spec.shards":                func(c *v1alpha1.LedgerCluster) { c.Spec.Shards = 65 },
		"spec.shards ":               func(c *v1alpha1.LedgerCluster) { c.Spec.Shards = 0 },
		"spec.slots":                 func(c *v1alpha1.LedgerCluster) { c.Spec.Slots = 1024 },
		"spec.rebalance":             func(c *v1alpha1.LedgerCluster) { c.Spec.Rebalance = "sometimes" },
		"metadata.name":              func(c *v1alpha1.LedgerCluster) { c.Name = strings.Repeat("x", 41) },
		"an image is needed":         func(c *v1alpha1.LedgerCluster) { c.Spec.Postgres.Image = "" },
		"no timeout covers a commit": func(c *v1alpha1.LedgerCluster) { c.Spec.Postgres.Parameters = map[string]string{"fsync": "off"} },
		"a parameter's name":         func(c *v1alpha1.LedgerCluster) { c.Spec.Postgres.Parameters = map[string]string{"Work Mem": "8MB"} },
		"spec.etcd.endpoints":        func(c *v1alpha1.LedgerCluster) { c.Spec.Etcd.Endpoints = nil },
		"spec.passwordSecret.name":   func(c *v1alpha1.LedgerCluster) { c.Spec.PasswordSecret.Name = "" },
	} {
		c := newCluster(1)
		change(c)
		if err := w.api.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := newCluster(1)
	c.Name = "frozen"
	c.Spec.Slots, c.Spec.Rebalance, c.Spec.Postgres.Mode, c.Spec.Postgres.Instances, c.Spec.Etcd.Prefix = 0, "", "", 0, ""
	if err := w.api.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if c.Spec.Slots != 4096 || c.Spec.Rebalance != "auto" || c.Spec.Postgres.Mode != "StatefulSet" || c.Spec.Etcd.Prefix != "/saldo/default/" || *c.Spec.Postgres.UserID != 999 {
		t.Errorf("what was not said is %+v", c.Spec)
	}
	for what, change := range map[string]func(*v1alpha1.LedgerCluster){
		"the mode never changes":   func(c *v1alpha1.LedgerCluster) { c.Spec.Postgres.Mode = v1alpha1.ModeCloudNativePG },
		"the prefix never changes": func(c *v1alpha1.LedgerCluster) { c.Spec.Etcd.Prefix = "/other/" },
		`supported values: "4096"`: func(c *v1alpha1.LedgerCluster) { c.Spec.Slots = 8192 },
	} {
		changed := c.DeepCopy()
		change(changed)
		if err := w.api.Update(t.Context(), changed); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := w.api.Delete(t.Context(), c); err != nil {
		t.Error(err)
	}
}

func (w *world) scales(t *testing.T) {
	w.fataler = t
	w.want(2)
	w.settles()
	w.owners("s1:2048", "s2:2048")
	// kubectl scale, and whoever else scales things.
	c := newCluster(0)
	scale := new(autoscalingv1.Scale)
	for _, n := range []int32{3, 1} {
		if err := w.api.SubResource("scale").Get(t.Context(), c, scale); err != nil {
			t.Fatal(err)
		}
		scale.Spec.Replicas = n
		if err := w.api.SubResource("scale").Update(t.Context(), c, client.WithSubResourceBody(scale)); err != nil {
			t.Fatal(err)
		}
		w.settles()
		if err := w.api.SubResource("scale").Get(t.Context(), c, scale); err != nil || scale.Status.Replicas != n ||
			scale.Status.Selector != "app.kubernetes.io/component=shard,ledger.saldo.dev/cluster=main" {
			t.Errorf("scaled to %d: %+v, %v", n, scale, err)
		}
	}
	w.owners("s1:4096")
	w.is(v1alpha1.ConditionReady, metav1.ConditionTrue, "Serving")

	// What somebody deletes stays, and is made anew when that is said.
	w.somebody(w.api.Delete(t.Context(), w.set("s1")))
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionTrue, "ShardDeleted")
	set := w.set("s1")
	set.Annotations["ledger.saldo.dev/recreate"] = "true"
	w.somebody(w.api.Update(t.Context(), set))
	w.allowed[set.Name] = true
	w.settles()
	w.is(v1alpha1.ConditionBlocked, metav1.ConditionFalse, "Free")

	// Its pod keeps to the restricted standard.
	template := w.set("s1").Spec.Template
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main-s1-0", Labels: template.Labels}, Spec: template.Spec}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "data"})
	if err := w.api.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Error(err)
	}
}

func (w *world) lacksRights(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "main-s1-0"}}
	for what, err := range map[string]error{
		"delete a claim":   w.operators.Delete(t.Context(), w.claim("s1")),
		"delete a pod":     w.operators.Delete(t.Context(), pod),
		"list secrets":     w.operators.List(t.Context(), new(corev1.SecretList), client.InNamespace(namespace)),
		"read elsewhere":   w.operators.List(t.Context(), new(v1alpha1.LedgerClusterList), client.InNamespace("default")),
		"delete a cluster": w.operators.Delete(t.Context(), newCluster(0)),
	} {
		if err == nil || !strings.Contains(err.Error(), "forbidden") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

package k8s

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What Pod Security asks for at its strictest (restricted), and a root that nobody writes to.
func TestPodsAreRestricted(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		for _, namespace := range of[*corev1.Namespace](all) {
			for _, mode := range []string{"enforce", "audit", "warn"} {
				if level := namespace.Labels["pod-security.kubernetes.io/"+mode]; level != "restricted" {
					t.Errorf("namespace %s: %s %q", namespace.Name, mode, level)
				}
			}
		}
		for _, p := range all.pods() {
			if p.spec.HostNetwork || p.spec.HostPID || p.spec.HostIPC {
				t.Errorf("%s shares something with its host", p.owner)
			}
			ofPod := p.spec.SecurityContext
			if ofPod == nil {
				t.Errorf("%s has no security context", p.owner)
				continue
			}
			switch {
			case ofPod.RunAsNonRoot == nil || !*ofPod.RunAsNonRoot || ofPod.RunAsUser == nil || *ofPod.RunAsUser == 0:
				t.Errorf("%s may run as root", p.owner)
			case ofPod.SeccompProfile == nil || ofPod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
				t.Errorf("%s has no seccomp profile", p.owner)
			case len(ofPod.Sysctls) > 0:
				t.Errorf("%s sets sysctls", p.owner)
			}
			for _, volume := range p.spec.Volumes {
				v := volume.VolumeSource
				if v.ConfigMap == nil && v.Secret == nil && v.Projected == nil && v.EmptyDir == nil && v.PersistentVolumeClaim == nil {
					t.Errorf("%s: volume %s is of a kind that is not needed", p.owner, volume.Name)
				}
			}
			for _, c := range p.containers() {
				context := c.SecurityContext
				switch {
				case context == nil:
					t.Errorf("%s: container %s has no security context", p.owner, c.Name)
				case context.AllowPrivilegeEscalation == nil || *context.AllowPrivilegeEscalation,
					context.Privileged != nil && *context.Privileged:
					t.Errorf("%s: container %s may get privileges", p.owner, c.Name)
				case context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem:
					t.Errorf("%s: container %s may write to its root", p.owner, c.Name)
				case context.Capabilities == nil || len(context.Capabilities.Add) > 0,
					!slices.Equal(context.Capabilities.Drop, []corev1.Capability{"ALL"}):
					t.Errorf("%s: container %s has capabilities", p.owner, c.Name)
				case context.RunAsUser != nil && *context.RunAsUser == 0:
					t.Errorf("%s: container %s runs as root", p.owner, c.Name)
				}
				for _, port := range c.Ports {
					if port.HostPort != 0 {
						t.Errorf("%s: container %s takes a port of its host", p.owner, c.Name)
					}
				}
			}
		}
	})
}

// Only the operator gets a token of Kubernetes, and may do nothing but what its Role says, in its own namespace.
func TestOnlyTheOperatorMayAskKubernetes(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		for _, account := range of[*corev1.ServiceAccount](all) {
			if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
				t.Errorf("ServiceAccount %s: its token is mounted everywhere", account.Name)
			}
		}
		for _, p := range all.pods() {
			if token := p.spec.AutomountServiceAccountToken; token == nil || *token != (p.component == "operator") {
				t.Errorf("%s: mounts a token: %v", p.owner, token)
			}
		}
		if bindings := of[*rbacv1.ClusterRoleBinding](all); len(bindings) > 0 {
			t.Errorf("somebody may something in all namespaces: %s", bindings[0].Name)
		}
		for _, role := range of[*rbacv1.Role](all) {
			for _, rule := range role.Rules {
				if slices.Contains(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), "*") {
					t.Errorf("Role %s has a wildcard: %v", role.Name, rule)
				}
				if slices.Contains(rule.Verbs, "delete") &&
					(slices.Contains(rule.Resources, "pods") || slices.Contains(rule.Resources, "persistentvolumeclaims")) {
					t.Errorf("Role %s may delete pods or claims", role.Name)
				}
			}
		}
	})
}

func TestContainersSayWhatTheyNeed(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		for _, p := range all.pods() {
			for _, c := range p.containers() {
				requests, limits := c.Resources.Requests, c.Resources.Limits
				if requests.Cpu().IsZero() || requests.Memory().IsZero() || limits.Memory().IsZero() {
					t.Errorf("%s: container %s does not say what it needs", p.owner, c.Name)
				}
				if limits.Memory().Cmp(*requests.Memory()) < 0 {
					t.Errorf("%s: container %s needs more memory than it may have", p.owner, c.Name)
				}
				if _, limited := limits[corev1.ResourceCPU]; limited {
					t.Errorf("%s: container %s is throttled", p.owner, c.Name)
				}
				if image, tag, ok := strings.Cut(c.Image, ":"); !ok || tag == "" || tag == "latest" {
					t.Errorf("%s: image %s is not pinned", p.owner, cmp.Or(image, c.Image))
				}
				// A Postgres that recovers must not be ended for taking long.
				if p.serves && (c.ReadinessProbe == nil || (c.LivenessProbe == nil) != (p.component == "shard")) {
					t.Errorf("%s: container %s: probes", p.owner, c.Name)
				}
			}
		}
	})
}

// A pod that is to go is taken out of its Services before it stops, and is not killed while it answers what it has begun.
func TestPodsHaveTimeToStop(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		for _, p := range all.pods() {
			if p.component != "router" && p.component != "coordinator" {
				continue
			}
			c := p.spec.Containers[0]
			if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil {
				t.Errorf("%s stops at once", p.owner)
				continue
			}
			grace := seconds(t, cmp.Or(p.setting(all, "SALDO_GRACE"), "10s"))
			if needed := c.Lifecycle.PreStop.Sleep.Seconds + grace; *p.spec.TerminationGracePeriodSeconds <= needed {
				t.Errorf("%s is killed after %d s, and needs more than %d s", p.owner, *p.spec.TerminationGracePeriodSeconds, needed)
			}
		}
		for _, deployment := range of[*appsv1.Deployment](all) {
			component := deployment.Spec.Template.Labels["app.kubernetes.io/component"]
			update := deployment.Spec.Strategy.RollingUpdate
			if component == "operator" {
				continue
			}
			if update == nil || update.MaxUnavailable == nil || *update.MaxUnavailable != intstr.FromInt32(0) {
				t.Errorf("%s: an update leaves it with fewer pods", deployment.Name)
			}
		}
	})
}

// What selects pods selects some, by ports that they have; nothing is selected by two budgets, which would refuse every
// eviction.
func TestSelectorsFindTheirPods(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		pods := all.pods()
		for _, cluster := range all {
			if cluster.kind == "LedgerCluster" {
				pods = append(pods, podsOfOperators(cluster)...)
			}
		}
		if len(pods) == 0 {
			return
		}
		budgets := make(map[string]string)
		for _, budget := range of[*policyv1.PodDisruptionBudget](all) {
			for _, p := range selected(t, pods, budget.Spec.Selector, "PodDisruptionBudget "+budget.Name) {
				if other := budgets[p.owner]; other != "" {
					t.Errorf("%s is in the budgets %s and %s", p.owner, other, budget.Name)
				}
				budgets[p.owner] = budget.Name
			}
		}
		for _, p := range pods {
			if p.serves && budgets[p.owner] == "" {
				t.Errorf("%s is in no PodDisruptionBudget", p.owner)
			}
		}
		for _, service := range of[*corev1.Service](all) {
			found := selected(t, pods, &metav1.LabelSelector{MatchLabels: service.Spec.Selector}, "Service "+service.Name)
			for _, port := range service.Spec.Ports {
				for _, p := range found {
					if !p.hasPort(port.TargetPort) {
						t.Errorf("Service %s: %s has no port %s", service.Name, p.owner, port.TargetPort.String())
					}
				}
			}
		}
		for _, scaler := range of[*autoscalingv2.HorizontalPodAutoscaler](all) {
			ref := scaler.Spec.ScaleTargetRef
			for _, deployment := range of[*appsv1.Deployment](all) {
				if deployment.Name == ref.Name && deployment.Spec.Replicas != nil {
					t.Errorf("%s and its autoscaler both say how many there are", deployment.Name)
				}
			}
			if !slices.ContainsFunc(pods, func(p pod) bool { return p.owner == ref.Kind+"/"+ref.Name }) {
				t.Errorf("autoscaler %s scales nothing", scaler.Name)
			}
		}
		for _, policy := range of[*networkingv1.NetworkPolicy](all) {
			found := selected(t, pods, &policy.Spec.PodSelector, "NetworkPolicy "+policy.Name)
			for _, rule := range policy.Spec.Ingress {
				if !slices.ContainsFunc(rule.From, reachesOut) {
					for _, peer := range rule.From {
						if peer.PodSelector.MatchLabels["ledger.saldo.dev/client"] == "" { // of pods that are not ours
							selected(t, pods, peer.PodSelector, "NetworkPolicy "+policy.Name)
						}
					}
				}
				for _, port := range rule.Ports {
					if !slices.ContainsFunc(found, func(p pod) bool { return p.hasPort(*port.Port) }) {
						t.Errorf("NetworkPolicy %s lets in to port %s, which nobody has", policy.Name, port.Port.String())
					}
				}
			}
			for _, rule := range policy.Spec.Egress {
				if len(rule.To) == 0 || slices.ContainsFunc(rule.To, reachesOut) {
					continue
				}
				for _, peer := range rule.To {
					to := selected(t, pods, peer.PodSelector, "")
					for _, port := range rule.Ports {
						if len(to) > 0 && !slices.ContainsFunc(to, func(p pod) bool { return p.hasPort(*port.Port) }) {
							t.Errorf("NetworkPolicy %s lets out to port %s, which nobody there has", policy.Name, port.Port.String())
						}
					}
				}
			}
		}
	})
}

// Without a policy that lets something through there is silence.
func TestNothingIsOpenByDefault(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		policies := of[*networkingv1.NetworkPolicy](all)
		if len(all.pods()) == 0 {
			return
		}
		if !slices.ContainsFunc(policies, func(p *networkingv1.NetworkPolicy) bool {
			s := p.Spec
			return len(s.PodSelector.MatchLabels)+len(s.PodSelector.MatchExpressions) == 0 &&
				len(s.Ingress)+len(s.Egress) == 0 && len(s.PolicyTypes) == 2
		}) {
			t.Error("no policy denies everything to everybody")
		}
		for _, policy := range policies {
			for _, rule := range policy.Spec.Ingress {
				if len(rule.From) == 0 || len(rule.Ports) == 0 {
					t.Errorf("NetworkPolicy %s lets everybody in, or to every port", policy.Name)
				}
			}
		}
	})
}

func reachesOut(peer networkingv1.NetworkPolicyPeer) bool {
	return peer.NamespaceSelector != nil || peer.IPBlock != nil
}

// podsOfOperators are the pods that operators make of a LedgerCluster, as far as manifests select them.
func podsOfOperators(cluster object) []pod {
	shard := pod{
		owner: cluster.String(), component: "shard", serves: true,
		labels: labels.Set{
			"app.kubernetes.io/name": "saldo", "app.kubernetes.io/component": "shard", "ledger.saldo.dev/cluster": cluster.name,
		},
	}
	ports := []corev1.ContainerPort{{Name: "postgres", ContainerPort: 5432}}
	if spec := cluster.fields["spec"].(map[string]any); spec["postgres"].(map[string]any)["mode"] == "CloudNativePG" {
		shard.serves = false // it makes budgets of its own
		shard.labels["cnpg.io/cluster"], shard.labels["cnpg.io/podRole"] = cluster.name, "instance"
		ports = append(ports,
			corev1.ContainerPort{Name: "status", ContainerPort: 8000}, corev1.ContainerPort{Name: "metrics", ContainerPort: 9187})
	}
	shard.spec.Containers = []corev1.Container{{Ports: ports}}
	return []pod{shard}
}

// selected returns the pods that a selector finds. what is told if it finds none, unless it is "".
func selected(t *testing.T, pods []pod, by *metav1.LabelSelector, what string) []pod {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var found []pod
	for _, p := range pods {
		if selector.Matches(p.labels) {
			found = append(found, p)
		}
	}
	if len(found) == 0 && what != "" {
		t.Errorf("%s: no pod is %s", what, selector)
	}
	return found
}

func (p pod) hasPort(port intstr.IntOrString) bool {
	for _, c := range p.spec.Containers {
		for _, has := range c.Ports {
			if port.StrVal == has.Name && port.StrVal != "" || port.IntVal == has.ContainerPort && port.StrVal == "" {
				return true
			}
		}
	}
	return false
}

// A workload selects its own pods, and nobody else's: Deployments and StatefulSets with one selector would fight.
func TestWorkloadsSelectOnlyTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		pods := all.pods()
		check := func(owner string, by *metav1.LabelSelector) {
			found := selected(t, pods, by, owner)
			for _, p := range found {
				if p.owner != owner {
					t.Errorf("%s selects the pods of %s", owner, p.owner)
				}
			}
		}
		for _, w := range of[*appsv1.Deployment](all) {
			check("Deployment/"+w.Name, w.Spec.Selector)
		}
		for _, w := range of[*appsv1.StatefulSet](all) {
			check("StatefulSet/"+w.Name, w.Spec.Selector)
			if keep := w.Spec.PersistentVolumeClaimRetentionPolicy; keep == nil ||
				keep.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType ||
				keep.WhenScaled != appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
				t.Errorf("StatefulSet/%s does not keep its volumes", w.Name)
			}
			if !slices.ContainsFunc(of[*corev1.Service](all), func(s *corev1.Service) bool {
				return s.Name == w.Spec.ServiceName && s.Spec.ClusterIP == corev1.ClusterIPNone
			}) {
				t.Errorf("StatefulSet/%s: no headless Service %s names its pods", w.Name, w.Spec.ServiceName)
			}
		}
	})
}

// Everything is in one namespace.
func TestNamespacesAreOne(t *testing.T) {
	each(t, func(t *testing.T, all manifests) {
		for _, o := range all {
			cluster := slices.Contains([]string{"Namespace", "CustomResourceDefinition", "ClusterRole"}, o.kind)
			if !cluster && o.namespace != "saldo" {
				t.Errorf("%s is in namespace %q", o, o.namespace)
			}
		}
	})
}

func seconds(t *testing.T, duration string) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscanf(duration, "%ds", &n); err != nil {
		t.Fatalf("%q is not a number of seconds: %v", duration, err)
	}
	return n
}

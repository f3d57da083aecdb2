package k8s

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Every variable that a manifest sets for a program of ours is one that the program reads.
func TestSettingsAreKnown(t *testing.T) {
	programs := map[string]map[string]bool{
		"saldo-router": variables(t, "router"), "saldo-coordinator": variables(t, "coordinator"),
		"saldo-operator": variables(t, "operator"), "saldo": variables(t, "saldo"),
	}
	each(t, func(t *testing.T, all manifests) {
		readers := make(map[string][]string) // ConfigMap → programs
		for _, p := range all.pods() {
			for _, c := range p.containers() {
				known, ours := programs[program(c.Image)]
				if !ours {
					continue
				}
				for _, variable := range c.Env {
					if strings.HasPrefix(variable.Name, "SALDO_") && !known[variable.Name] {
						t.Errorf("%s: %s knows no %s", p.owner, program(c.Image), variable.Name)
					}
				}
				for _, from := range c.EnvFrom {
					readers[from.ConfigMapRef.Name] = append(readers[from.ConfigMapRef.Name], program(c.Image))
				}
			}
		}
		for _, settings := range of[*corev1.ConfigMap](all) {
			for name := range settings.Data {
				reads := func(program string) bool { return programs[program][name] }
				if strings.HasPrefix(name, "SALDO_") && !slices.ContainsFunc(readers[settings.Name], reads) {
					t.Errorf("ConfigMap %s: none of %v knows %s", settings.Name, readers[settings.Name], name)
				}
			}
		}
	})
}

// variables are those that the flags of a program name: of the structs in its folder and in cmd/internal/wire, by their
// tags.
func variables(t *testing.T, program string) map[string]bool {
	t.Helper()
	wire := structs(t, "../../cmd/internal/wire")
	found := make(map[string]bool)
	var visit func(fields *ast.FieldList)
	visit = func(fields *ast.FieldList) {
		for _, field := range fields.List {
			if field.Tag != nil {
				text, err := strconv.Unquote(field.Tag.Value)
				if err != nil {
					t.Fatal(err)
				}
				for name := range strings.SplitSeq(reflect.StructTag(text).Get("env"), ",") {
					found[name] = name != ""
				}
			}
			name := ""
			switch typed := field.Type.(type) {
			case *ast.Ident:
				name = typed.Name
			case *ast.SelectorExpr:
				name = typed.Sel.Name
			}
			if embedded := wire[name]; embedded != nil && (field.Tag == nil || strings.Contains(field.Tag.Value, "embed")) {
				visit(embedded)
			}
		}
	}
	for _, fields := range structs(t, "../../cmd/"+program) {
		visit(fields)
	}
	return found
}

// structs are the struct types of a folder's files.
func structs(t *testing.T, dir string) map[string]*ast.FieldList {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s (%v)", dir, err)
	}
	found := make(map[string]*ast.FieldList)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if spec, ok := node.(*ast.TypeSpec); ok {
				if fields, ok := spec.Type.(*ast.StructType); ok {
					found[spec.Name.Name] = fields.Fields
				}
			}
			return true
		})
	}
	return found
}

// setting is what a pod's first container is told by a variable; "" if nothing.
func (p pod) setting(all manifests, name string) string {
	c := p.spec.Containers[0]
	for _, variable := range c.Env {
		if variable.Name == name {
			return variable.Value
		}
	}
	for _, from := range c.EnvFrom {
		for _, settings := range of[*corev1.ConfigMap](all) {
			if value, ok := settings.Data[name]; ok && from.ConfigMapRef.Name == settings.Name {
				return value
			}
		}
	}
	return ""
}

// What several must be told alike: where programs listen, where etcd is, how slots move.
func TestSettingsAgree(t *testing.T) {
	listens := map[string]string{"SALDO_HTTP": "http", "SALDO_ADMIN_HTTP": "admin", "SALDO_OPERATOR_HTTP": "http"}
	each(t, func(t *testing.T, all manifests) {
		var coordinator pod
		for _, p := range all.pods() {
			if p.component == "coordinator" {
				coordinator = p
			}
			for variable, name := range listens {
				address := p.setting(all, variable)
				for _, port := range p.spec.Containers[0].Ports {
					if address != "" && port.Name == name && address != ":"+strconv.Itoa(int(port.ContainerPort)) {
						t.Errorf("%s listens on %s, and says it is %d", p.owner, address, port.ContainerPort)
					}
				}
			}
			for _, c := range p.spec.Containers {
				for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
					if probe != nil && probe.HTTPGet != nil && !p.hasPort(probe.HTTPGet.Port) {
						t.Errorf("%s: a probe asks at port %s, which it has not", p.owner, probe.HTTPGet.Port.String())
					}
				}
			}
		}
		for _, o := range all {
			if o.kind != "LedgerCluster" {
				continue
			}
			spec := o.fields["spec"].(map[string]any)
			etcd := spec["etcd"].(map[string]any)
			var endpoints []string
			for _, endpoint := range etcd["endpoints"].([]any) {
				endpoints = append(endpoints, endpoint.(string))
			}
			for name, says := range map[string]any{
				"SALDO_ETCD": strings.Join(endpoints, ","), "SALDO_ETCD_PREFIX": etcd["prefix"], "SALDO_REBALANCE": spec["rebalance"],
			} {
				if set := coordinator.setting(all, name); set != says {
					t.Errorf("%s is %q, and %s says %q", name, set, o, says)
				}
			}
		}
		for _, set := range of[*appsv1.StatefulSet](all) {
			if set.Name == "etcd" {
				checkEtcd(t, all, set)
			}
		}
	})
}

// checkEtcd holds what members are told of each other against how many there are and what they are called.
func checkEtcd(t *testing.T, all manifests, set *appsv1.StatefulSet) {
	t.Helper()
	p := pod{spec: set.Spec.Template.Spec}
	var want []string
	for i := range int(*set.Spec.Replicas) {
		member := set.Name + "-" + strconv.Itoa(i)
		want = append(want, member+"="+p.setting(all, "SCHEME")+"://"+member+"."+set.Spec.ServiceName+":2380")
	}
	if got := p.setting(all, "ETCD_INITIAL_CLUSTER"); got != strings.Join(want, ",") {
		t.Errorf("ETCD_INITIAL_CLUSTER is %s, and there are %s", got, strings.Join(want, ","))
	}
	for _, name := range []string{"ETCD_LISTEN_CLIENT_URLS", "ETCD_LISTEN_PEER_URLS"} {
		if got := p.setting(all, name); !strings.HasPrefix(got, p.setting(all, "SCHEME")+"://") {
			t.Errorf("%s is %s", name, got)
		}
	}
}

// What pods mount and read is there. Passwords are only where everybody may know them: production names its secrets, and the
// handbook says what they hold.
func TestSecretsAndSettingsAreThere(t *testing.T) {
	handbook, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, all manifests) {
		there := make(map[string][]string) // Secret/name or ConfigMap/name → keys
		for _, c := range of[*corev1.ConfigMap](all) {
			there["ConfigMap/"+c.Name] = slices.Collect(maps.Keys(c.Data))
		}
		for _, s := range of[*corev1.Secret](all) {
			there["Secret/"+s.Name] = slices.Collect(maps.Keys(s.Data))
			if strings.Contains(t.Name(), "production") {
				t.Errorf("Secret %s is rendered", s.Name)
			}
		}
		needs := func(owner, what string, items []corev1.KeyToPath) {
			keys, ok := there[what]
			if name, secret := strings.CutPrefix(what, "Secret/"); !ok && secret && strings.Contains(t.Name(), "production") {
				if !strings.Contains(string(handbook), "`"+name+"`") {
					t.Errorf("%s needs %s, of which docs/OPERATIONS.md says nothing", owner, what)
				}
				return
			} else if !ok {
				t.Errorf("%s needs %s, which is not there", owner, what)
			}
			for _, item := range items {
				if !slices.Contains(keys, item.Key) {
					t.Errorf("%s needs key %s of %s", owner, item.Key, what)
				}
			}
		}
		for _, p := range all.pods() {
			for _, volume := range p.spec.Volumes {
				switch {
				case volume.Secret != nil:
					needs(p.owner, "Secret/"+volume.Secret.SecretName, volume.Secret.Items)
				case volume.ConfigMap != nil:
					needs(p.owner, "ConfigMap/"+volume.ConfigMap.Name, volume.ConfigMap.Items)
				case volume.Projected != nil:
					for _, source := range volume.Projected.Sources {
						needs(p.owner, "Secret/"+source.Secret.Name, source.Secret.Items)
					}
				}
			}
			for _, c := range p.containers() {
				for _, from := range c.EnvFrom {
					needs(p.owner, "ConfigMap/"+from.ConfigMapRef.Name, nil)
				}
				for _, variable := range c.Env {
					if from := variable.ValueFrom; from != nil && from.SecretKeyRef != nil {
						t.Errorf("%s: %s is a secret in the environment, not in a file", p.owner, variable.Name)
					}
				}
				checkPaths(t, all, p, c)
			}
		}
	})
}

// checkPaths sees that files which variables name lie in a volume that is mounted.
func checkPaths(t *testing.T, all manifests, p pod, c corev1.Container) {
	t.Helper()
	names := []string{
		"POSTGRES_PASSWORD_FILE", "SALDO_POSTGRES_PASSWORD_FILE", "SALDO_OWNER_PASSWORD_FILE", "SALDO_ADMIN_TOKEN_FILE",
		"SALDO_ETCD_CA", "SALDO_ETCD_CERT", "SALDO_ETCD_KEY", "ETCD_CERT_FILE", "ETCD_KEY_FILE", "ETCD_TRUSTED_CA_FILE",
		"ETCD_PEER_CERT_FILE", "ETCD_PEER_KEY_FILE", "ETCD_PEER_TRUSTED_CA_FILE",
	}
	for _, name := range names {
		path := p.setting(all, name)
		if path == "" {
			continue
		}
		i := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == filepath.Dir(path) })
		if i < 0 {
			t.Errorf("%s: %s is %s, where nothing is mounted", p.owner, name, path)
			continue
		}
		mounted := func(v corev1.Volume) bool { return v.Name == c.VolumeMounts[i].Name }
		volume := p.spec.Volumes[slices.IndexFunc(p.spec.Volumes, mounted)]
		var items []corev1.KeyToPath
		switch {
		case volume.Secret != nil:
			items = volume.Secret.Items
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				items = append(items, source.Secret.Items...)
			}
		}
		if len(items) > 0 && !slices.ContainsFunc(items, func(k corev1.KeyToPath) bool { return k.Path == filepath.Base(path) }) {
			t.Errorf("%s: %s is %s, and the volume has no such file", p.owner, name, path)
		}
	}
}

// Every shard of a production cluster is backed up.
func TestShardsAreBackedUp(t *testing.T) {
	t.Parallel()
	all := render(t, "overlays/production")
	backups := make(map[any]bool)
	stores := make(map[string]bool)
	for _, o := range all {
		switch o.kind {
		case "ScheduledBackup":
			backups[o.fields["spec"].(map[string]any)["cluster"].(map[string]any)["name"]] = true
		case "ObjectStore":
			stores[o.name] = true
		}
	}
	for _, o := range all {
		if o.kind != "LedgerCluster" {
			continue
		}
		spec := o.fields["spec"].(map[string]any)
		for i := range spec["shards"].(int) {
			if name := o.name + "-s" + strconv.Itoa(i+1); !backups[name] {
				t.Errorf("no ScheduledBackup of %s", name)
			}
		}
		plugin := spec["postgres"].(map[string]any)["clusterTemplate"].(map[string]any)["plugins"].([]any)[0].(map[string]any)
		if store := plugin["parameters"].(map[string]any)["barmanObjectName"].(string); !stores[store] {
			t.Errorf("%s: there is no ObjectStore %s", o, store)
		}
	}
}

// A shard by hand is set up as those of docker-compose.yml are, and both use the same images of others.
func TestPostgresIsSetUpAsWithCompose(t *testing.T) {
	t.Parallel()
	compose, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range render(t, "overlays/static").pods() {
		for _, c := range p.containers() {
			if !strings.HasPrefix(program(c.Image), "saldo") && !strings.Contains(string(compose), ":-"+c.Image+"}") {
				t.Errorf("%s: docker-compose.yml does not use %s", p.owner, c.Image)
			}
		}
	}
	for _, name := range []string{"init.sql", "postgresql.conf"} {
		here, err := os.ReadFile(filepath.Join("postgres", "shard", name))
		if err != nil {
			t.Fatal(err)
		}
		there, err := os.ReadFile(filepath.Join("..", "compose", "postgres", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(here) != string(there) {
			t.Errorf("deploy/k8s/postgres/shard/%s is not deploy/compose/postgres/%s: copy the latter", name, name)
		}
	}
}

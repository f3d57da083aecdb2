// Package k8s holds the tests of the manifests: what the overlays say, rendered as kubectl renders them, against the types
// of Kubernetes, the schemas of custom resources, and the programs. They need no cluster.
package k8s

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// overlays are what people apply, each complete in itself.
var overlays = []string{"overlays/dev", "overlays/static", "overlays/production", "testdata/tracing"}

// object is one rendered object.
type object struct {
	kind, name, namespace string
	yaml                  []byte
	typed                 runtime.Object // nil: of a custom resource
	fields                map[string]any
}

func (o object) String() string { return o.kind + "/" + o.name }

// manifests is what an overlay renders to.
type manifests []object

var rendered sync.Map // overlay → func() (manifests, error)

// render renders an overlay once for all tests.
func render(t *testing.T, overlay string) manifests {
	t.Helper()
	once, _ := rendered.LoadOrStore(overlay, sync.OnceValues(func() (manifests, error) { return kustomize(overlay) }))
	all, err := once.(func() (manifests, error))()
	if err != nil {
		t.Fatalf("%s: %v", overlay, err)
	}
	return all
}

func kustomize(overlay string) (manifests, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		return nil, err
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		json.SerializerOptions{Yaml: true, Strict: true})
	var all manifests
	for _, resource := range resources.Resources() {
		o := object{kind: resource.GetKind(), name: resource.GetName(), namespace: resource.GetNamespace()}
		if o.yaml, err = resource.AsYAML(); err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		if o.fields, err = resource.Map(); err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		o.typed, _, err = strict.Decode(o.yaml, nil, nil)
		if err != nil && !runtime.IsNotRegisteredError(err) {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		all = append(all, o)
	}
	return all, nil
}

// each runs a test on every overlay.
func each(t *testing.T, test func(t *testing.T, all manifests)) {
	t.Parallel()
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			test(t, render(t, overlay))
		})
	}
}

// of returns the objects of a type of Kubernetes.
func of[T runtime.Object](all manifests) []T {
	var found []T
	for _, o := range all {
		if typed, ok := o.typed.(T); ok {
			found = append(found, typed)
		}
	}
	return found
}

// pod is the template of a workload's pods.
type pod struct {
	owner     string // kind/name
	component string
	labels    labels.Set
	spec      corev1.PodSpec
	serves    bool // for long, so it has probes
}

func (all manifests) pods() []pod {
	var pods []pod
	for _, o := range all {
		p := pod{owner: o.String()}
		var template corev1.PodTemplateSpec
		switch workload := o.typed.(type) {
		case *appsv1.Deployment:
			template, p.serves = workload.Spec.Template, true
		case *appsv1.StatefulSet:
			template, p.serves = workload.Spec.Template, true
		case *batchv1.Job:
			template = workload.Spec.Template
		case *batchv1.CronJob:
			template = workload.Spec.JobTemplate.Spec.Template
		default:
			continue
		}
		p.labels, p.spec = template.Labels, template.Spec
		p.component = template.Labels["app.kubernetes.io/component"]
		pods = append(pods, p)
	}
	return pods
}

// containers of all kinds of a pod.
func (p pod) containers() []corev1.Container {
	return slices.Concat(p.spec.InitContainers, p.spec.Containers)
}

// program is the name of an image without its registry and its version.
func program(image string) string {
	name, _, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return name
}

// Whatever is rendered, and whatever is only there to be used by an overlay, is used by one.
func TestEveryFileIsUsed(t *testing.T) {
	t.Parallel()
	used := make(map[string]bool)
	var visit func(dir string)
	visit = func(dir string) {
		file := filepath.Join(dir, "kustomization.yaml")
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if used[file] {
			return
		}
		used[file] = true
		for line := range bytes.Lines(content) {
			for word := range strings.FieldsFuncSeq(string(line), func(r rune) bool { return strings.ContainsRune(" []{},:\n", r) }) {
				path := filepath.Join(dir, word)
				if info, err := os.Stat(path); err != nil || word == "-" || word == "." {
					continue
				} else if !info.IsDir() {
					used[path] = true
				} else if _, err := os.Stat(filepath.Join(path, "kustomization.yaml")); err == nil {
					visit(path)
				}
			}
		}
	}
	for _, overlay := range overlays {
		visit(overlay)
	}
	for _, dir := range []string{"base", "components", "etcd", "operator", "overlays", "postgres"} {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && !used[path] {
				t.Errorf("%s is used by no overlay", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

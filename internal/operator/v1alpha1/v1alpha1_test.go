package v1alpha1_test

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

const crdFile = "../../../deploy/k8s/operator/crd/ledger.saldo.dev_ledgerclusters.yaml"

func readCRD(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	text, err := os.ReadFile(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	crd := new(apiextensionsv1.CustomResourceDefinition)
	if err := yaml.UnmarshalStrict(text, crd); err != nil {
		t.Fatal(err)
	}
	return crd
}

// The schema has the fields of the Go types, of the same kinds, and says the same of what must be there.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	t.Parallel()
	crd := readCRD(t)
	version := crd.Spec.Versions[0]
	if crd.Spec.Group != v1alpha1.GroupVersion.Group || version.Name != v1alpha1.GroupVersion.Version || crd.Spec.Names.Kind != "LedgerCluster" {
		t.Errorf("it is %s/%s %s", crd.Spec.Group, version.Name, crd.Spec.Names.Kind)
	}
	for _, part := range []struct {
		name string
		of   any
	}{{"spec", v1alpha1.LedgerClusterSpec{}}, {"status", v1alpha1.LedgerClusterStatus{}}} {
		compare(t, "."+part.name, reflect.TypeOf(part.of), version.Schema.OpenAPIV3Schema.Properties[part.name])
	}
}

var (
	quantity  = reflect.TypeFor[resource.Quantity]()
	instant   = reflect.TypeFor[metav1.Time]()
	resources = reflect.TypeFor[corev1.ResourceRequirements]()
	anything  = reflect.TypeFor[runtime.RawExtension]()
)

func compare(t *testing.T, path string, of reflect.Type, schema apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	kind := ""
	switch {
	case of == quantity:
		if !schema.XIntOrString {
			t.Errorf("%s is no quantity", path)
		}
		return
	case of == anything:
		if schema.XPreserveUnknownFields == nil || !*schema.XPreserveUnknownFields {
			t.Errorf("%s does not keep what it does not know", path)
		}
		return
	case of == resources: // claims are of dynamic allocation, which Postgres has no use for
		if got := slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(got, []string{"limits", "requests"}) {
			t.Errorf("%s has %v", path, got)
		}
		return
	case of == instant, of.Kind() == reflect.String:
		kind = "string"
	case of.Kind() == reflect.Int32, of.Kind() == reflect.Int64:
		kind = "integer"
		if schema.Format != of.Kind().String() {
			t.Errorf("%s is of format %s, not %s", path, schema.Format, of.Kind())
		}
	case of.Kind() == reflect.Slice:
		kind = "array"
		compare(t, path+"[]", of.Elem(), *schema.Items.Schema)
	case of.Kind() == reflect.Map:
		kind = "object"
		compare(t, path+"{}", of.Elem(), *schema.AdditionalProperties.Schema)
	case of.Kind() == reflect.Struct:
		kind = "object"
		var names, required []string
		for i := range of.NumField() {
			name, options, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			names = append(names, name)
			if options == "" {
				required = append(required, name)
			}
			compare(t, path+"."+name, of.Field(i).Type, schema.Properties[name])
		}
		slices.Sort(names)
		if got := slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(got, names) {
			t.Errorf("%s has %v in its schema, and %v in Go", path, got, names)
		}
		slices.Sort(required)
		if got := slices.Sorted(slices.Values(schema.Required)); path != ".status" && !slices.Equal(got, required) {
			t.Errorf("%s requires %v in its schema, and always writes %v in Go", path, got, required)
		}
	}
	if schema.Type != kind {
		t.Errorf("%s is %q in its schema, and %s in Go", path, schema.Type, of)
	}
}

// A copy has every field, and shares none.
func TestDeepCopy(t *testing.T) {
	t.Parallel()
	filled := func() *v1alpha1.LedgerClusterList {
		list := new(v1alpha1.LedgerClusterList)
		fill(reflect.ValueOf(list).Elem(), 1)
		return list
	}
	original := filled()
	for _, c := range []runtime.Object{original.DeepCopyObject(), (&original.Items[0]).DeepCopyObject()} {
		if list, ok := c.(*v1alpha1.LedgerClusterList); ok {
			if !equality.Semantic.DeepEqual(list, original) {
				t.Errorf("the copy is another one:\n%+v\n%+v", list, original)
			}
			fill(reflect.ValueOf(list).Elem(), 2)
			continue
		}
		cluster := c.(*v1alpha1.LedgerCluster)
		if !equality.Semantic.DeepEqual(*cluster, original.Items[0]) {
			t.Errorf("the copy is another one:\n%+v\n%+v", cluster, original.Items[0])
		}
		fill(reflect.ValueOf(cluster).Elem(), 3)
	}
	if !equality.Semantic.DeepEqual(original, filled()) {
		t.Errorf("the original has changed with its copy:\n%+v", original)
	}
	if (*v1alpha1.LedgerCluster)(nil).DeepCopy() != nil || (*v1alpha1.LedgerClusterList)(nil).DeepCopy() != nil {
		t.Error("a copy of nothing is something")
	}
}

// fill gives every field a value that n decides, in place where something is there already.
func fill(v reflect.Value, n int) {
	switch {
	case v.Type() == quantity:
		v.Set(reflect.ValueOf(resource.MustParse(fmt.Sprint(n))))
		return
	case v.Type() == instant:
		v.Set(reflect.ValueOf(metav1.Unix(int64(n), 0)))
		return
	case v.Type() == anything:
		raw := v.Addr().Interface().(*runtime.RawExtension)
		if len(raw.Raw) == 0 {
			raw.Raw = []byte("0")
		}
		raw.Raw[0] = byte('0' + n)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		fill(v.Index(0), n)
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, 1)
		fill(value, n)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(fmt.Sprint("text", n))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint8:
		v.SetUint(uint64(n))
	case reflect.Bool:
		v.SetBool(n%2 == 1)
	}
}

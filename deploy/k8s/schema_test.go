package k8s

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Every object is of a kind that Kubernetes knows, and has no field that it does not know. Rendering decodes Kubernetes' own
// kinds strictly; here are the others, by the schema of their resource: LedgerCluster's own, and of foreign ones what the
// manifests use of it, in testdata/crds. The rules of a schema (x-kubernetes-validations) are left to an API server.
func TestObjectsAreWhatTheirSchemasSay(t *testing.T) {
	schemas := make(map[string]*openapi3.Schema) // by apiVersion and kind
	for _, pattern := range []string{"operator/crd/ledger*.yaml", "testdata/crds/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no resource at %s (%v)", pattern, err)
		}
		for _, file := range files {
			addSchemas(t, schemas, file)
		}
	}
	each(t, func(t *testing.T, all manifests) {
		for _, o := range all {
			if o.typed != nil || o.kind == "CustomResourceDefinition" {
				continue
			}
			known := schemas[o.fields["apiVersion"].(string)+" "+o.kind]
			if known == nil {
				t.Errorf("%s: its kind is unknown: put its schema into testdata/crds", o)
				continue
			}
			var fields any
			if err := yaml.Unmarshal(o.yaml, &fields); err != nil {
				t.Fatal(err)
			}
			if err := known.VisitJSON(fields, openapi3.MultiErrors()); err != nil {
				t.Errorf("%s: %v", o, err)
			}
			if template := templateOf(fields); template != nil { // which a LedgerCluster's schema leaves open
				spec := schemas["postgresql.cnpg.io/v1 Cluster"].Properties["spec"].Value
				if err := spec.VisitJSON(template, openapi3.MultiErrors()); err != nil {
					t.Errorf("%s: spec.postgres.clusterTemplate: %v", o, err)
				}
			}
			metadata, err := yaml.Marshal(fields.(map[string]any)["metadata"])
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(metadata, &metav1.ObjectMeta{}); err != nil {
				t.Errorf("%s: metadata: %v", o, err)
			}
		}
	})
}

// templateOf is what a LedgerCluster adds to CloudNativePG's Clusters; nil if that is nothing.
func templateOf(fields any) any {
	for _, name := range []string{"spec", "postgres", "clusterTemplate"} {
		inner, ok := fields.(map[string]any)
		if !ok {
			return nil
		}
		fields = inner[name]
	}
	return fields
}

// addSchemas adds the schemas of a resource's versions.
func addSchemas(t *testing.T, schemas map[string]*openapi3.Schema, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var resource apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &resource); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, version := range resource.Spec.Versions {
		raw, err := json.Marshal(version.Schema.OpenAPIV3Schema)
		if err != nil {
			t.Fatal(err)
		}
		schema := new(openapi3.Schema)
		if err := json.Unmarshal(raw, schema); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for name, property := range schema.Properties {
			if name == "metadata" { // of Kubernetes' own type
				property.Value = openapi3.NewObjectSchema()
			} else {
				closeSchema(property.Value)
			}
		}
		refuseOthers(schema)
		schemas[resource.Spec.Group+"/"+version.Name+" "+resource.Spec.Names.Kind] = schema
	}
}

// closeSchema has a schema, and all in it, refuse fields that it does not name, as an API server warns of them.
func closeSchema(schema *openapi3.Schema) {
	if len(schema.Properties) > 0 {
		refuseOthers(schema)
	}
	for _, property := range schema.Properties {
		closeSchema(property.Value)
	}
	if schema.Items != nil {
		closeSchema(schema.Items.Value)
	}
	if values := schema.AdditionalProperties.Schema; values != nil {
		closeSchema(values.Value)
	}
}

func refuseOthers(schema *openapi3.Schema) {
	if schema.AdditionalProperties.Has == nil && schema.AdditionalProperties.Schema == nil {
		no := false
		schema.AdditionalProperties.Has = &no
	}
}

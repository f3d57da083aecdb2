package api

import (
	_ "embed"
	"net/http"
	"slices"
)

//go:embed openapi.yaml
var openAPI []byte

// OpenAPI returns the document that describes this package's routes, as it is served.
func OpenAPI() []byte { return slices.Clone(openAPI) }

// openapi answers GET /openapi.yaml.
func (f *face) openapi(*request) (reply, error) {
	return reply{status: http.StatusOK, yaml: openAPI}, nil
}

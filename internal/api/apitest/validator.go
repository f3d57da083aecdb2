package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/saldo-ledger/saldo/internal/api"
)

// Validator checks responses against openapi.yaml. It is stricter than a client may be: fields, statuses and content
// types that the document does not have are errors.
type Validator struct {
	doc    *openapi3.T
	router routers.Router
}

// NewValidator reads and checks the document.
func NewValidator() (*Validator, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		return nil, fmt.Errorf("load openapi.yaml: %w", err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, fmt.Errorf("check openapi.yaml: %w", err)
	}
	for _, schema := range doc.Components.Schemas {
		closeObjects(schema.Value)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("route openapi.yaml: %w", err)
	}
	return &Validator{doc: doc, router: router}, nil
}

// closeObjects forbids the fields that an object's schema does not name.
func closeObjects(schema *openapi3.Schema) {
	if schema.Type.Is("object") && schema.AdditionalProperties.Has == nil && schema.AdditionalProperties.Schema == nil {
		schema.AdditionalProperties.Has = new(false)
	}
	for _, property := range schema.Properties {
		if property.Ref == "" {
			closeObjects(property.Value)
		}
	}
}

// Operations returns method and path of every operation, as in "GET /users/{uid}".
func (v *Validator) Operations() []string {
	var operations []string
	for path, item := range v.doc.Paths.Map() {
		for method := range item.Operations() {
			operations = append(operations, method+" "+path)
		}
	}
	return operations
}

// Codes returns every error code that the document names.
func (v *Validator) Codes() []string {
	var codes []string
	for _, code := range v.doc.Components.Schemas["Code"].Value.Enum {
		codes = append(codes, code.(string))
	}
	return codes
}

// Check reports how a response differs from what the document says. It reads the body and puts it back. The response's
// Request must be set, as http.Client does.
func (v *Validator) Check(response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if response.Request.Method == http.MethodHead {
		if len(body) > 0 {
			return errors.New("answer to HEAD has a body")
		}
		return nil
	}
	if err := v.match(response, body); err != nil {
		return fmt.Errorf("%s %s: %d %s: %w", response.Request.Method, response.Request.URL.Path, response.StatusCode, body, err)
	}
	return nil
}

func (v *Validator) match(response *http.Response, body []byte) error {
	route, params, err := v.router.FindRoute(response.Request)
	switch {
	case errors.Is(err, routers.ErrPathNotFound):
		route = v.unrouted("404", "NotFound")
	case errors.Is(err, routers.ErrMethodNotAllowed):
		route = v.unrouted("405", "MethodNotAllowed")
	case err != nil:
		return fmt.Errorf("find route: %w", err)
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: response.Request, Route: route, PathParams: params,
		},
		Status:  response.StatusCode,
		Header:  response.Header,
		Body:    io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	if err != nil {
		return err
	}
	// What no schema can say: the envelope repeats the status.
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		var envelope struct {
			StatusCode *int `json:"status_code"`
		}
		if err := json.Unmarshal(body, &envelope); err != nil {
			return err
		}
		bare := response.StatusCode == http.StatusOK && strings.HasPrefix(response.Request.URL.Path, "/app/")
		if !bare && (envelope.StatusCode == nil || *envelope.StatusCode != response.StatusCode) {
			return errors.New("status_code is not the status")
		}
	}
	return nil
}

// unrouted is a route whose only response is a component of the document.
func (v *Validator) unrouted(status, component string) *routers.Route {
	response := &openapi3.ResponseRef{Value: v.doc.Components.Responses[component].Value}
	return &routers.Route{
		Spec:      v.doc,
		Operation: &openapi3.Operation{Responses: openapi3.NewResponses(openapi3.WithName(status, response.Value))},
	}
}

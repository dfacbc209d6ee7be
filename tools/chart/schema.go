package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// specs are the values whose entries are specs of a kind, and the CRDs of these kinds.
var specs = map[string]string{
	"pools":                "loadbalancerpools",
	"segmentAnnouncements": "segmentannouncements",
	"routeAnnouncements":   "routeannouncements",
	"bgpNeighbors":         "bgpneighbors",
}

// schema writes values.schema.json.
func (r repository) schema() error {
	text, err := os.ReadFile(filepath.Join(r.root, "tools", "chart", "schema.json"))
	if err != nil {
		return err
	}
	var schema struct {
		Schema               string         `json:"$schema"`
		Type                 string         `json:"type"`
		AdditionalProperties bool           `json:"additionalProperties"`
		Definitions          map[string]any `json:"definitions"`
		Properties           map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		return fmt.Errorf("schema.json: %w", err)
	}
	for value, plural := range specs {
		spec, err := r.specOf(plural)
		if err != nil {
			return err
		}
		schema.Properties[value] = map[string]any{
			"type":                 "object",
			"description":          "Specs of " + plural + ", by name.",
			"patternProperties":    map[string]any{`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`: spec},
			"additionalProperties": false,
		}
	}
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(r.chart("values.schema.json"), append(out, '\n'), 0o644)
}

// specOf returns the JSON schema of a kind's spec.
func (r repository) specOf(plural string) (map[string]any, error) {
	text, err := os.ReadFile(r.manifests("crds", "berth.dev_"+plural+".yaml"))
	if err != nil {
		return nil, err
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(text, crd); err != nil {
		return nil, fmt.Errorf("CRD %s: %w", plural, err)
	}
	for _, version := range crd.Spec.Versions {
		if version.Storage {
			spec := version.Schema.OpenAPIV3Schema.Properties["spec"]
			return jsonSchema(&spec), nil
		}
	}
	return nil, fmt.Errorf("CRD %s has no version that is stored", plural)
}

// jsonSchema translates a structural schema. It refuses fields that the API server would prune, and
// leaves rules (CEL) to the API server.
func jsonSchema(s *apiextensionsv1.JSONSchemaProps) map[string]any {
	out := map[string]any{}
	if s.Type != "" {
		out["type"] = s.Type
		if s.Nullable {
			out["type"] = []string{s.Type, "null"}
		}
	}
	set := func(key string, is bool, value any) {
		if is {
			out[key] = value
		}
	}
	set("description", s.Description != "", s.Description)
	set("enum", len(s.Enum) > 0, s.Enum)
	set("pattern", s.Pattern != "", s.Pattern)
	set("required", len(s.Required) > 0, s.Required)
	set("minimum", s.Minimum != nil, s.Minimum)
	set("maximum", s.Maximum != nil, s.Maximum)
	set("minLength", s.MinLength != nil, s.MinLength)
	set("maxLength", s.MaxLength != nil, s.MaxLength)
	set("minItems", s.MinItems != nil, s.MinItems)
	set("maxItems", s.MaxItems != nil, s.MaxItems)
	set("minProperties", s.MinProperties != nil, s.MinProperties)
	set("maxProperties", s.MaxProperties != nil, s.MaxProperties)
	if s.Items != nil && s.Items.Schema != nil {
		out["items"] = jsonSchema(s.Items.Schema)
	}
	if len(s.Properties) > 0 {
		properties := map[string]any{}
		for name := range s.Properties {
			property := s.Properties[name]
			properties[name] = jsonSchema(&property)
		}
		out["properties"], out["additionalProperties"] = properties, false
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		out["additionalProperties"] = jsonSchema(s.AdditionalProperties.Schema)
	}
	return out
}

package lint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/berth-lb/berth/manifests/crds"
)

// kind is what an API server knows of a kind of Berth's.
type kind struct {
	plural, version string
	namespaced      bool
	structural      *schema.Structural
	validator       validation.SchemaValidator
	rules           *cel.Validator
}

// Schemas are those of Berth's kinds.
type Schemas struct {
	group, version string
	kinds          map[string]*kind
}

// NewSchemas reads the schemas of the CustomResourceDefinitions of this version of Berth.
func NewSchemas() (*Schemas, error) {
	definitions, err := crds.All()
	if err != nil {
		return nil, err
	}
	s := &Schemas{kinds: map[string]*kind{}}
	for _, definition := range definitions {
		var crd apiextensionsv1.CustomResourceDefinition
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(definition.Object, &crd); err != nil {
			return nil, fmt.Errorf("read CRD %s: %w", definition.GetName(), err)
		}
		version := crd.Spec.Versions[0]
		var props apiextensions.JSONSchemaProps
		err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
			version.Schema.OpenAPIV3Schema, &props, nil,
		)
		if err != nil {
			return nil, fmt.Errorf("read the schema of CRD %s: %w", crd.Name, err)
		}
		structural, err := schema.NewStructural(&props)
		if err != nil {
			return nil, fmt.Errorf("read the schema of CRD %s: %w", crd.Name, err)
		}
		validator, _, err := validation.NewSchemaValidator(&props)
		if err != nil {
			return nil, fmt.Errorf("read the schema of CRD %s: %w", crd.Name, err)
		}
		s.group, s.version = crd.Spec.Group, version.Name
		s.kinds[crd.Spec.Names.Kind] = &kind{
			plural: crd.Spec.Names.Plural, version: version.Name,
			namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
			structural: structural, validator: validator,
			rules: cel.NewValidator(structural, true, celconfig.PerCallLimit),
		}
	}
	return s, nil
}

// names returns the kinds, sorted.
func (s *Schemas) names() []string {
	var names []string
	for name := range s.kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Check returns what an API server says against the creation of an object of Berth's group, which
// it fills with defaults. Fields that it would drop with a warning count, too. An object without a
// namespace that needs one is taken for one of namespace default.
func (s *Schemas) Check(ctx context.Context, o *unstructured.Unstructured) []string {
	k := s.kinds[o.GetKind()]
	if k == nil {
		return []string{
			fmt.Sprintf(
				"kind %q is not one of %s's; write one of %s",
				o.GetKind(),
				s.group,
				strings.Join(s.names(), ", "),
			),
		}
	}
	if version := o.GroupVersionKind().Version; version != k.version {
		return []string{fmt.Sprintf("apiVersion %s is not known; write %s/%s", o.GetAPIVersion(), s.group, k.version)}
	}
	strict := objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true}
	_, _, misspelled, err := objectmeta.GetObjectMetaWithOptions(o.Object, strict)
	if err != nil {
		return []string{"metadata: " + err.Error()}
	}
	switch {
	case !k.namespaced:
		o.SetNamespace("") // as an API server does: kustomize writes one on every object of a custom kind
	case o.GetNamespace() == "":
		o.SetNamespace(metav1.NamespaceDefault)
	}
	var texts []string
	unknown := pruning.PruneWithOptions(
		o.Object,
		k.structural,
		true,
		schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true},
	)
	for _, path := range append(misspelled, unknown...) {
		texts = append(texts, fmt.Sprintf("%s: there is no such field; correct its name or take it out", path))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(o.Object, k.structural)
	defaulting.Default(o.Object, k.structural)
	delete(o.Object, "status") // an API server takes none when an object is created
	defaulting.Default(o.Object, k.structural)

	errs := apivalidation.ValidateObjectMetaAccessor(
		o,
		k.namespaced,
		apivalidation.NameIsDNSSubdomain,
		field.NewPath("metadata"),
	)
	errs = append(errs, validation.ValidateCustomResource(nil, o.Object, k.validator)...)
	errs = append(errs, objectmeta.Validate(nil, o.Object, k.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, o.Object)...)
	if !slices.ContainsFunc(errs, blocks) {
		broken, _ := k.rules.Validate(ctx, nil, k.structural, o.Object, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, broken...)
	}
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return texts
}

// blocks reports whether rules are not evaluated after the error: they expect types to be right.
func blocks(err *field.Error) bool {
	switch err.Type {
	case field.ErrorTypeNotSupported,
		field.ErrorTypeRequired,
		field.ErrorTypeTooLong,
		field.ErrorTypeTooMany,
		field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

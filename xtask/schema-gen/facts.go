package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
)

const header = `# Facts of the Kubernetes 1.37 API. Written by "cargo xtask schema"; not edited by hand.
# enum NAME ["VALUE",...]
# kind GROUP/VERSION KIND namespaced|cluster|- MESSAGE    ("-": a list, options or another kind that is no resource)
# message NAME FORM [atomic]
#  FIELD TAG TYPE [FLAGS]      "*" pointer, "[]" list, "{}" map by string; tag 0: not in protobuf
#   + MARKER                   a declarative validation marker of the field
`

// forms are the types whose JSON is not an object of their fields.
var forms = map[string]string{
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                             "time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                                        "microtime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                                         "duration",
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                                         "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                                       "intorstring",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                                          "rawextension",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                                         "fieldsv1",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":                         "json",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":        "schemaorbool",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray":       "schemaorarray",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "schemaorstrings",
}

// protoFields are the fields of the types whose Go struct does not show them.
var protoFields = map[string][]string{
	"time":        {"seconds 1 int64", "nanos 2 int32"},
	"microtime":   {"seconds 1 int64", "nanos 2 int32"},
	"duration":    {"duration 1 int64"},
	"quantity":    {"string 1 string"},
	"intorstring": {"type 1 int64", "intVal 2 int32", "strVal 3 string"},
	// An interface-typed object travels as raw bytes.
	"rawextension": {"raw 1 bytes"},
	"fieldsv1":     {"Raw 1 bytes"},
	"json":         {"raw 1 bytes"},
	"schemaorbool": {
		"allows 1 bool", "schema 2 *io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
	},
	"schemaorarray": {
		"schema 1 *io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
		"jSONSchemas 2 []io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
	},
	"schemaorstrings": {
		"schema 1 *io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
		"property 2 []string",
	},
}

type marshaler interface{ Marshal() ([]byte, error) }

var marshalerType = reflect.TypeFor[marshaler]()

type facts struct {
	sources  *sources
	messages map[string]string // name → block of lines
	enums    map[string]string
	kinds    []string
	done     map[reflect.Type]bool
	pending  []reflect.Type
	problems []string
}

func writeFacts(out io.Writer) error {
	scheme := newScheme()
	f := &facts{sources: newSources(), messages: map[string]string{}, enums: map[string]string{}, done: map[reflect.Type]bool{}}
	f.addKinds(scheme)
	f.want(reflect.TypeFor[metav1.Patch]())
	f.want(reflect.TypeFor[version.Info]())
	for len(f.pending) > 0 {
		t := f.pending[0]
		f.pending = f.pending[1:]
		f.addMessage(t)
	}
	if len(f.problems) > 0 {
		return fmt.Errorf("%s", strings.Join(f.problems, "\n"))
	}
	fmt.Fprint(out, header)
	for _, name := range sortedKeys(f.enums) {
		fmt.Fprintf(out, "enum %s %s\n", name, f.enums[name])
	}
	slices.Sort(f.kinds)
	for _, line := range slices.Compact(f.kinds) {
		fmt.Fprintln(out, line)
	}
	for _, name := range sortedKeys(f.messages) {
		fmt.Fprint(out, f.messages[name])
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (f *facts) addKinds(scheme *runtime.Scheme) {
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		meta := strings.HasSuffix(t.PkgPath(), "/apis/meta/v1")
		// Options, Status and WatchEvent are registered in every group: the core group's stand for all.
		if meta && gvk.GroupVersion().String() != "v1" && gvk.Group != "meta.k8s.io" {
			continue
		}
		scope := "-"
		if markers := f.sources.typeMarkers(t); markers.has("genclient") {
			scope = "namespaced"
			if markers.has("genclient:nonNamespaced") {
				scope = "cluster"
			}
		}
		f.kinds = append(f.kinds, fmt.Sprintf("kind %s %s %s %s", gvk.GroupVersion(), gvk.Kind, scope, f.name(t)))
		f.want(t)
	}
}

func (f *facts) want(t reflect.Type) {
	if !f.done[t] {
		f.done[t] = true
		f.pending = append(f.pending, t)
	}
}

// name is the OpenAPI definition name.
func (f *facts) name(t reflect.Type) string {
	if n, ok := reflect.Zero(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return n.OpenAPIModelName()
	}
	host, rest, ok := strings.Cut(t.PkgPath(), "/")
	if !ok || host != "k8s.io" {
		f.problems = append(f.problems, "no name for "+t.String())
	}
	return "io.k8s." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}

func (f *facts) addMessage(t reflect.Type) {
	name := f.name(t)
	form, ok := forms[t.PkgPath()+"."+t.Name()]
	var b strings.Builder
	markers := f.sources.typeMarkers(t)
	switch {
	case ok:
	case t.Kind() == reflect.Struct:
		form = "struct"
	default:
		form = "items"
	}
	fmt.Fprintf(&b, "message %s %s", name, form)
	if markers.value("structType") == "atomic" {
		b.WriteString(" atomic")
	}
	b.WriteByte('\n')
	switch {
	case form == "struct":
		f.addFields(&b, t, false)
	case form == "items":
		fmt.Fprintf(&b, " items 1 %s\n", f.typeName(t.Elem(), "[]"))
	default:
		for _, line := range protoFields[form] {
			fmt.Fprintf(&b, " %s\n", line)
		}
		for i := range t.NumField() {
			f.reach(t.Field(i).Type)
		}
	}
	f.messages[name] = b.String()
}

// reach follows the Go fields of a special form for the messages it needs.
func (f *facts) reach(t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Name() == "JSONSchemaProps" {
		f.want(t)
	}
}

func (f *facts) addFields(b *strings.Builder, t reflect.Type, inlined bool) {
	for i := range t.NumField() {
		field := t.Field(i)
		jsonTag, hasJSON := field.Tag.Lookup("json")
		jsonName, jsonFlags, _ := strings.Cut(jsonTag, ",")
		if jsonName == "-" || !field.IsExported() {
			continue
		}
		flags := strings.Split(jsonFlags, ",")
		tag, protoName := protoTag(field.Tag.Get("protobuf"))
		inline := field.Anonymous && jsonName == "" || slices.Contains(flags, "inline")
		if inline && tag == 0 {
			f.addFields(b, field.Type, true)
			continue
		}
		if !hasJSON {
			f.problems = append(f.problems, fmt.Sprintf("%s.%s has no JSON tag", t, field.Name))
			continue
		}
		if inlined {
			tag = 0
		}
		if jsonName == "" {
			jsonName = protoName
		}
		if jsonName == "" {
			jsonName = strings.ToLower(field.Name[:1]) + field.Name[1:]
		}
		f.addField(b, t, field, jsonName, tag, flags, inline)
	}
}

func (f *facts) addField(b *strings.Builder, t reflect.Type, field reflect.StructField, name string, tag int, flags []string, inline bool) {
	markers := f.sources.fieldMarkers(t, field.Name)
	ft := field.Type
	fmt.Fprintf(b, " %s %d %s", name, tag, f.typeName(ft, ""))
	word := func(format string, args ...any) { fmt.Fprintf(b, " "+format, args...) }
	for _, flag := range []string{"omitempty", "omitzero"} {
		if slices.Contains(flags, flag) {
			word("%s", flag)
		}
	}
	if inline {
		word("inline")
	} else if markers.has("required") || !markers.has("optional") && !slices.Contains(flags, "omitempty") && !slices.Contains(flags, "omitzero") {
		word("required")
	}
	if kind := f.marker(t, ft, markers, "listType"); kind != "" {
		keys := markers.values("listMapKey")
		if kind == "map" {
			kind += ":" + strings.Join(keys, ",")
		}
		word("list=%s", kind)
	}
	if f.marker(t, ft, markers, "mapType") == "atomic" || markers.value("structType") == "atomic" {
		word("atomic")
	}
	if markers.value("mapType") == "granular" || markers.value("structType") == "granular" {
		word("granular")
	}
	if s := field.Tag.Get("patchStrategy"); s != "" {
		word("patch=%s", s)
	}
	if s := field.Tag.Get("patchMergeKey"); s != "" {
		word("key=%s", s)
	}
	if enum := f.enum(ft); enum != "" {
		word("enum=%s", enum)
	}
	if d := markers.value("default"); d != "" {
		word("default=%s", f.defaultValue(t, d))
	}
	b.WriteByte('\n')
	for _, m := range markers.validations() {
		fmt.Fprintf(b, "  + %s\n", m)
	}
}

// marker is the field's, or that of its named type.
func (f *facts) marker(_ reflect.Type, ft reflect.Type, markers markers, name string) string {
	if v := markers.value(name); v != "" {
		return v
	}
	if ft.PkgPath() != "" && ft.Kind() != reflect.Struct {
		return f.sources.typeMarkers(ft).value(name)
	}
	return ""
}

func (f *facts) defaultValue(t reflect.Type, text string) string {
	if ref, ok := strings.CutPrefix(text, "ref("); ok {
		text = strconv.Quote(f.sources.constant(t, strings.TrimSuffix(ref, ")")))
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		f.problems = append(f.problems, fmt.Sprintf("%s: default %s: %v", t, text, err))
	}
	compact, _ := json.Marshal(v)
	return string(compact)
}

// typeName spells a type and puts the messages it needs on the list.
func (f *facts) typeName(t reflect.Type, prefix string) string {
	if t.PkgPath() != "" && (t.Kind() == reflect.Struct || t.Kind() == reflect.Slice && reflect.PointerTo(t).Implements(marshalerType)) {
		f.want(t)
		return prefix + f.name(t)
	}
	switch t.Kind() {
	case reflect.Pointer:
		if prefix != "" {
			f.problems = append(f.problems, "pointer within "+prefix+" to "+t.String())
		}
		return f.typeName(t.Elem(), "*")
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return prefix + "bytes"
		}
		return f.typeName(t.Elem(), prefix+"[]")
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			f.problems = append(f.problems, "map key of "+t.String())
		}
		return f.typeName(t.Elem(), prefix+"{}")
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return prefix + t.Kind().String()
	case reflect.Int:
		return prefix + "int64"
	case reflect.Float64:
		return prefix + "double"
	case reflect.Float32:
		return prefix + "float"
	case reflect.Interface:
		return prefix + "any"
	}
	f.problems = append(f.problems, "type "+t.String())
	return prefix + "?"
}

// enum names the closed set of a field's values, if its type (or its element's) is one.
func (f *facts) enum(t reflect.Type) string {
	for t.PkgPath() == "" && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	if t.PkgPath() == "" || t.Kind() != reflect.String {
		return ""
	}
	m := f.sources.typeMarkers(t)
	if !m.has("enum") && !m.has("k8s:enum") {
		return ""
	}
	name := f.name(t)
	if f.enums[name] == "" {
		values, _ := json.Marshal(f.sources.constantsOf(t))
		f.enums[name] = string(values)
	}
	return name
}

func protoTag(tag string) (int, string) {
	if tag == "" || tag == "-" {
		return 0, ""
	}
	parts := strings.Split(tag, ",")
	number, _ := strconv.Atoi(parts[1])
	for _, p := range parts[2:] {
		if name, ok := strings.CutPrefix(p, "name="); ok {
			return number, name
		}
	}
	return number, ""
}

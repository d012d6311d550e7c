package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// writeGolden writes objects.txt.gz: a line per object, of apiVersion, kind, message, variant, protobuf in base64 and
// JSON, with tabs between. Variants: "zero" has nothing set, "full" has every field, "some" about half of them.
func writeGolden(dir string) error {
	scheme := newScheme()
	f := &facts{sources: newSources()}
	var lines []string
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || !reflect.PointerTo(t).Implements(marshalerType) {
			continue
		}
		meta := strings.HasSuffix(t.PkgPath(), "/apis/meta/v1")
		if meta && gvk.GroupVersion().String() != "v1" && gvk.Group != "meta.k8s.io" {
			continue
		}
		// A list repeats its item, and the JSON of an embedded object is its own.
		if strings.HasSuffix(gvk.Kind, "List") || gvk.Kind == "WatchEvent" || strings.HasSuffix(gvk.Kind, "Options") {
			continue
		}
		for _, variant := range []string{"zero", "some", "full"} {
			value := reflect.New(t)
			filler := &filler{some: variant == "some", seed: uint32(len(gvk.Kind))*7919 + uint32(gvk.Kind[0])}
			if variant != "zero" {
				filler.fill(value.Elem(), t.Name(), 0)
			}
			object := value.Interface().(runtime.Object)
			object.GetObjectKind().SetGroupVersionKind(gvk)
			wire, err := object.(marshaler).Marshal()
			if err != nil {
				return fmt.Errorf("%s: %w", gvk, err)
			}
			text, err := json.Marshal(object)
			if err != nil {
				return fmt.Errorf("%s: %w", gvk, err)
			}
			lines = append(lines, strings.Join([]string{
				gvk.GroupVersion().String(), gvk.Kind, f.name(t), variant, base64.StdEncoding.EncodeToString(wire), string(text),
			}, "\t"))
		}
	}
	slices.Sort(lines)
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if _, err := zip.Write([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "objects.txt.gz"), out.Bytes(), 0o644)
}

// filler sets fields to values that differ from each other, the same ones in every run.
type filler struct {
	some  bool
	seed  uint32
	count int
}

func (f *filler) random() uint32 {
	f.seed = f.seed*1664525 + 1013904223
	return f.seed >> 8
}

func (f *filler) skip() bool { return f.some && f.random()%2 == 0 }

func (f *filler) fill(v reflect.Value, name string, depth int) {
	f.count++
	switch p := v.Addr().Interface().(type) {
	case *metav1.TypeMeta:
		return
	case *metav1.Time:
		*p = metav1.NewTime(time.Unix(1_700_000_000+int64(f.count), 0).UTC())
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(time.Unix(1_700_000_000+int64(f.count), int64(f.count)*1000).UTC())
		return
	case *metav1.Duration:
		p.Duration = time.Duration(f.count) * 1_500_000_000
		return
	case *resource.Quantity:
		*p = resource.MustParse([]string{"100m", "1Gi", "2", "1500Mi", "1e3", "250u"}[f.count%6])
		return
	case *intstr.IntOrString:
		*p = []intstr.IntOrString{intstr.FromInt32(int32(f.count)), intstr.FromString("25%")}[f.count%2]
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":"b","n":[1,2.5,true,null]}`)
		return
	case *metav1.FieldsV1:
		p.SetRawString(`{"f:metadata":{"f:labels":{"f:app":{}}}}`)
		return
	case *apiextensionsv1.JSON:
		p.Raw = []byte(`{"x":[1,"two",false]}`)
		return
	case *apiextensionsv1.JSONSchemaPropsOrBool:
		p.Allows = true
		if f.count%2 == 0 {
			p.Schema = &apiextensionsv1.JSONSchemaProps{Type: "string"}
		}
		return
	case *apiextensionsv1.JSONSchemaPropsOrArray:
		p.Schema = &apiextensionsv1.JSONSchemaProps{Type: "integer"}
		return
	case *apiextensionsv1.JSONSchemaPropsOrStringArray:
		p.Property = []string{"a", "b"}
		return
	case *apiextensionsv1.JSONSchemaProps:
		if depth > 14 {
			p.Type = "object"
			return
		}
		depth += 4
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if field.IsExported() && field.Tag.Get("json") != "-" {
				f.fill(v.Field(i), field.Name, depth+1)
			}
		}
	case reflect.Pointer:
		if depth > 20 || f.skip() {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), name, depth+1)
	case reflect.Slice:
		if depth > 20 || f.skip() {
			return
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{0, 1, byte(f.count), 254, 255})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), f.length(v.Type().Elem()), 4))
		for i := range v.Len() {
			f.fill(v.Index(i), name, depth+1)
		}
	case reflect.Map:
		if depth > 20 || f.skip() {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for i := range f.length(v.Type().Elem()) {
			key := reflect.New(v.Type().Key()).Elem()
			key.SetString(fmt.Sprintf("key%d.io/%s", 2-i, name))
			value := reflect.New(v.Type().Elem()).Elem()
			// A nil among bytes has no other form than an empty one.
			if value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Uint8 {
				value.SetBytes([]byte{byte(f.count), 255})
			} else {
				f.fill(value, name, depth+1)
			}
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		if f.skip() {
			return
		}
		v.SetString(fmt.Sprintf("%s-%d%s", name, f.count, []string{"", "", "", "", "é<&>\"\\\n\t\u2028"}[f.count%5]))
	case reflect.Bool:
		v.SetBool(!f.skip())
	case reflect.Int32, reflect.Int64, reflect.Int:
		if !f.skip() {
			v.SetInt([]int64{int64(f.count), -1, 1 << 30, -int64(f.count)}[f.count%4])
		}
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.count))
	case reflect.Float64:
		v.SetFloat([]float64{1.5, 100, 1e21, -0.000001}[f.count%4])
	}
}

// length keeps objects small: two scalars, one struct.
func (f *filler) length(t reflect.Type) int {
	if t.Kind() == reflect.Struct && t != reflect.TypeFor[resource.Quantity]() {
		return 1
	}
	return 2
}

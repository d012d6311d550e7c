package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// sources reads markers and constants, which reflection does not show, from the Go files of a package.
type sources struct {
	packages map[string]*source
}

type source struct {
	types     map[string]markers
	fields    map[string]markers           // "Type.Field"
	constants map[string]map[string]string // type → name → value
	excluded  map[string]bool              // constants that are no enum values
	aliases   map[string]string            // type B A → A's struct fields carry the markers
}

// markers are the lines after "// +", in order.
type markers []string

func (m markers) has(name string) bool {
	return slices.ContainsFunc(m, func(s string) bool { return s == name || strings.HasPrefix(s, name+"=") })
}

func (m markers) values(name string) []string {
	var out []string
	for _, s := range m {
		if v, ok := strings.CutPrefix(s, name+"="); ok {
			out = append(out, strings.TrimSpace(v))
		}
	}
	return out
}

func (m markers) value(name string) string {
	if v := m.values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// validations are the declarative validation markers, without their stability level. An immutability that is still alpha
// is told by functions, in words of their own.
func (m markers) validations() []string {
	var out []string
	for _, s := range m {
		if strings.HasPrefix(s, "k8s:alpha") && strings.HasSuffix(s, "=+k8s:immutable") {
			continue
		}
		s = stability.ReplaceAllString(s, "")
		name, ok := strings.CutPrefix(s, "k8s:")
		if !ok || unrelated.MatchString(name) {
			continue
		}
		name, _, _ = strings.Cut(name, " // ")
		if name = strings.TrimSpace(name); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

var (
	stability = regexp.MustCompile(`^k8s:(alpha|beta)(\([^)]*\))?=\+?`)
	unrelated = regexp.MustCompile(`^(deepcopy-gen|prerelease-lifecycle-gen|conversion-gen|openapi-gen|validation-gen|listType|listMapKey|supportsSubresource|isSubresource|deprecated|opaqueType|immutable\))`)
	markerRE  = regexp.MustCompile(`^//\s*\+(\S.*)$`)
)

func newSources() *sources { return &sources{packages: map[string]*source{}} }

func (s *sources) typeMarkers(t reflect.Type) markers { return s.load(t.PkgPath()).types[t.Name()] }

func (s *sources) fieldMarkers(t reflect.Type, field string) markers {
	src := s.load(t.PkgPath())
	name := t.Name()
	for src.aliases[name] != "" {
		name = src.aliases[name]
	}
	return src.fields[name+"."+field]
}

// constantsOf are the values of an enum, sorted.
func (s *sources) constantsOf(t reflect.Type) []string {
	src := s.load(t.PkgPath())
	values := []string{}
	for name, v := range src.constants[t.Name()] {
		if !src.excluded[name] {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// constant resolves "ref(Name)" or "ref(import/path.Name)" of a default marker.
func (s *sources) constant(t reflect.Type, name string) string {
	path := t.PkgPath()
	if i := strings.LastIndex(name, "."); i >= 0 {
		path, name = name[:i], name[i+1:]
	}
	for _, values := range s.load(path).constants {
		if v, ok := values[name]; ok {
			return v
		}
	}
	log.Fatalf("constant %s of %s is not to be found", name, path)
	return ""
}

func (s *sources) load(path string) *source {
	if src := s.packages[path]; src != nil {
		return src
	}
	src := &source{types: map[string]markers{}, fields: map[string]markers{}, constants: map[string]map[string]string{}, excluded: map[string]bool{}, aliases: map[string]string{}}
	s.packages[path] = src
	if path == "" {
		return src
	}
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}\n{{range .GoFiles}}{{.}}\n{{end}}", path).Output()
	if err != nil {
		log.Fatalf("go list %s: %v", path, err)
	}
	lines := strings.Fields(string(dir))
	for _, file := range lines[1:] {
		if strings.HasSuffix(file, ".pb.go") || strings.HasPrefix(file, "zz_generated") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, lines[0]+"/"+file, nil, parser.ParseComments)
		if err != nil {
			log.Fatal(err)
		}
		s.read(src, set, tree)
	}
	return src
}

func (s *sources) read(src *source, set *token.FileSet, tree *ast.File) {
	// A type's markers may stand in a block of their own, one empty line above its comment.
	ends := map[int]*ast.CommentGroup{}
	for _, group := range tree.Comments {
		ends[set.Position(group.End()).Line] = group
	}
	for _, decl := range tree.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				doc := spec.Doc
				if doc == nil {
					doc = gen.Doc
				}
				all := marks(doc)
				first := spec.Pos()
				if !gen.Lparen.IsValid() {
					first = gen.Pos()
				}
				if doc != nil {
					first = doc.Pos()
				}
				if above := ends[set.Position(first).Line-2]; above != nil {
					all = append(marks(above), all...)
				}
				src.types[spec.Name.Name] = all
				switch body := spec.Type.(type) {
				case *ast.StructType:
					src.readFields(spec.Name.Name, body)
				case *ast.Ident:
					src.aliases[spec.Name.Name] = body.Name
				}
			case *ast.ValueSpec:
				if gen.Tok == token.CONST {
					s.readConstant(src, tree, spec)
				}
			}
		}
	}
}

func (src *source) readFields(name string, body *ast.StructType) {
	for _, field := range body.Fields.List {
		for _, ident := range field.Names {
			src.fields[name+"."+ident.Name] = marks(field.Doc)
		}
		if len(field.Names) == 0 {
			e := field.Type
			if star, ok := e.(*ast.StarExpr); ok {
				e = star.X
			}
			switch e := e.(type) {
			case *ast.Ident:
				src.fields[name+"."+e.Name] = marks(field.Doc)
			case *ast.SelectorExpr:
				src.fields[name+"."+e.Sel.Name] = marks(field.Doc)
			}
		}
	}
}

func (s *sources) readConstant(src *source, tree *ast.File, spec *ast.ValueSpec) {
	for i, ident := range spec.Names {
		if i >= len(spec.Values) {
			continue
		}
		value := spec.Values[i]
		typeName := ""
		if t, ok := spec.Type.(*ast.Ident); ok {
			typeName = t.Name
		}
		if call, ok := value.(*ast.CallExpr); ok && len(call.Args) == 1 {
			if f, ok := call.Fun.(*ast.Ident); ok {
				typeName = f.Name
			}
			value = call.Args[0]
		}
		text := ""
		switch v := value.(type) {
		case *ast.BasicLit:
			if v.Kind != token.STRING {
				continue
			}
			text, _ = strconv.Unquote(v.Value)
		case *ast.Ident:
			for _, values := range src.constants {
				if known, ok := values[v.Name]; ok {
					text = known
				}
			}
		case *ast.SelectorExpr:
			// Another package's constant: v1.IPv4Protocol.
			alias, ok := v.X.(*ast.Ident)
			if !ok || typeName == "" {
				continue
			}
			for _, values := range s.load(imported(tree, alias.Name)).constants {
				if known, ok := values[v.Sel.Name]; ok {
					text = known
				}
			}
		default:
			continue
		}
		if src.constants[typeName] == nil {
			src.constants[typeName] = map[string]string{}
		}
		src.constants[typeName][ident.Name] = text
		if m := marks(spec.Doc); m.has("k8s:enumExclude") {
			src.excluded[ident.Name] = true
		}
	}
}

// imported is the path that a file knows by this name.
func imported(tree *ast.File, name string) string {
	for _, spec := range tree.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if spec.Name != nil && spec.Name.Name == name || spec.Name == nil && strings.HasSuffix(path, "/"+name) {
			return path
		}
	}
	return ""
}

func marks(group *ast.CommentGroup) markers {
	if group == nil {
		return nil
	}
	var out markers
	for _, c := range group.List {
		if m := markerRE.FindStringSubmatch(c.Text); m != nil {
			out = append(out, strings.TrimSpace(m[1]))
		}
	}
	return out
}

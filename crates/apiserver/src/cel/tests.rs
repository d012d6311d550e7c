use schema::{Value, json};

use super::*;

fn env() -> Env {
    let int_map = Type::map(Type::String, Type::Int);
    Env::new([
        ("object", Type::Dyn),
        ("i", Type::Int),
        ("s", Type::String),
        ("l", Type::list(Type::Int)),
        ("m", int_map),
    ])
}

fn object() -> Value {
    json::parse(br#"{"spec":{"replicas":3},"a":"x","n":null,"l":[3,1,2],"m":{"a":1,"b":2}}"#).unwrap()
}

fn cx(object: &Value) -> Cx<'_> {
    let mut cx = Cx::new(BUDGET);
    cx.set("object", object.into());
    cx.set("i", Val::Int(5));
    cx.set("s", Val::borrowed("text"));
    cx.set("l", (&object["l"]).into());
    cx.set("m", (&object["m"]).into());
    cx
}

/// The result as text, `ERROR why`, or `COMPILE why` (without the picture of the place).
fn shown(source: &str) -> String {
    let program = match Program::compile(source, &env()) {
        Ok(program) => program,
        Err(error) => {
            let lines = error.0.lines().filter_map(|l| l.strip_prefix("ERROR: <input>:"));
            return format!("COMPILE {}", lines.collect::<Vec<_>>().join("; "));
        }
    };
    let object = object();
    let mut cx = cx(&object);
    match cx.run(&program) {
        Ok(value) => match value.to_json() {
            Ok(json) => json.to_string(),
            Err(_) => match &value {
                Val::Optional(None) => "none".into(),
                other => format!("<{}>", other.type_name()),
            },
        },
        Err(fault) => format!("ERROR {fault}"),
    }
}

fn cost(source: &str) -> u64 {
    let program = Program::compile(source, &env()).unwrap();
    let object = object();
    let mut cx = cx(&object);
    let _ = cx.run(&program);
    BUDGET - cx.budget()
}

fn check(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(source, wanted)| {
            let found = shown(source);
            (found != *wanted).then(|| format!("{source}\n  found  {found}\n  wanted {wanted}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn language() {
    check(&[
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("0x1F + 0", "31"),
        ("object.spec.replicas > 1 && object.a == 'x'", "true"),
        (r#"object['spec']["replicas"]"#, "3"),
        ("i > 3 ? 'big' : 'small'", r#""big""#),
        ("1 < 1.5 && 1u < 2", "true"),
        ("dyn(1u) == dyn(1) && dyn(1.0) == dyn(1) && dyn('1') != dyn(1)", "true"),
        ("'a' in object && 1 in l && !('z' in m)", "true"),
        ("[[1], [2]] == [[1], [2]] && {'a': [1]} == {'a': [1]}", "true"),
        ("type(1) == int && type(quantity('1')) == kubernetes.Quantity", "true"),
        (r#"r'a\d' + "\u00e9\x41\101""#, r#""a\\déAA""#),
        (r#"'''two"quotes'''"#, r#""two\"quotes""#),
        ("b'abc' + bytes('d') // a comment", r#""YWJjZA==""#),
        ("[1, 2,] + [3]", "[1,2,3]"),
        ("has(object.spec) && !has(object.spec.zz) && has(m.a)", "true"),
        ("object.n == null", "true"),
    ]);
}

#[test]
fn macros() {
    check(&[
        ("l.all(x, x > 0) && l.exists(x, x > 2) && l.exists_one(x, x == 2)", "true"),
        ("l.map(x, x * 2)", "[6,2,4]"),
        ("l.map(x, x > 1, x * 2)", "[6,4]"),
        ("l.filter(x, x > 1)", "[3,2]"),
        ("m.map(k, k)", r#"["a","b"]"#),
        ("l.all(i, v, i < v + 3) && m.exists(k, v, k == 'b' && v == 2)", "true"),
        ("l.transformList(i, v, v + i)", "[3,2,4]"),
        ("l.transformList(i, v, i > 0, v + i)", "[2,4]"),
        ("m.transformMap(k, v, v > 1, v + 1)", r#"{"b":3}"#),
        ("m.transformMapEntry(k, v, {k + k: v})", r#"{"aa":1,"bb":2}"#),
        ("m.transformMapEntry(k, v, {'same': v})", "ERROR insert failed: key same already exists"),
        ("l.map(x, l.map(y, x + y)).size()", "3"),
        // An error counts only if nothing else decides.
        ("[0, 1].exists(x, 1 / x > 0)", "true"),
        ("[0, 1].all(x, 1 / x > 1)", "false"),
        ("[1, 2].exists(x, x / 0 > 1)", "ERROR division by zero"),
        ("optional.of(1).optMap(x, x + 1).value()", "2"),
        ("optional.none().optMap(x, x + 1).orValue(7)", "7"),
        ("object.?spec.?replicas.orValue(1) + object.?zz.?yy.orValue(1)", "4"),
        ("[?object.?a, ?object.?zz]", r#"["x"]"#),
        ("{?'x': object.?a, ?'y': object.?zz}", r#"{"x":"x"}"#),
        ("object.?zz", "none"),
        ("l[?1].value() + l[?9].orValue(0)", "1"),
    ]);
}

#[test]
fn libraries() {
    check(&[
        ("[l.isSorted(), l.sort().isSorted()]", "[false,true]"),
        ("[l.sum(), l.min(), l.max(), l.indexOf(2), l.lastIndexOf(9)]", "[6,1,3,2,-1]"),
        ("l.sortBy(x, -x) + l.reverse() + l.slice(0, 1)", "[3,2,1,2,1,3,3]"),
        ("[[1], [2, 1]].flatten().distinct()", "[1,2]"),
        ("lists.range(3).last().value()", "2"),
        ("sets.contains(l, [1]) && sets.equivalent(l, [1, 2, 3]) && !sets.intersects(l, [9])", "true"),
        ("'tacocat'.substring(2, 5) + 'abc'.charAt(1) + ' x '.trim()", r#""cocbx""#),
        ("['tacocat'.indexOf('c', 3), 'tacocat'.lastIndexOf('c'), 'a'.indexOf('')]", "[4,4,0]"),
        ("'a,b,c'.split(',', 2) + ['a', 'b'].map(x, x.upperAscii())", r#"["a","b,c","A","B"]"#),
        ("['a', 'b'].join('-') + 'aXa'.replace('a', 'b', 1).lowerAscii()", r#""a-bbxa""#),
        (
            "'%s|%d|%.1f|%x|%b|%s|%e'.format(['a', 1, 1.25, 255, 5, [1, 'b'], 1234.5])",
            r#""a|1|1.2|ff|101|[1, \"b\"]|1.234500×10⁰³""#,
        ),
        ("s.matches('^te') && 'abc'.find('[bc]+') == 'bc' && 'aa'.findAll('a', 1) == ['a']", "true"),
        ("url('https://u@h:80/p%20q?x=1&x=2').getHost() + url('/a b').getEscapedPath()", r#""h:80/a%20b""#),
        ("url('https://h/?x=1&x=2').getQuery()", r#"{"x":["1","2"]}"#),
        (
            "[isURL('foo'), isURL('http://[::1]:80/'), isIP('1.2.3.04'), isCIDR('10.0.0.0/33')]",
            "[false,true,false,false]",
        ),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('::/64').containsIP(ip('10.1.2.3'))", "true"),
        ("cidr('192.168.0.0/24').containsCIDR('192.168.0.0/25')", "true"),
        ("string(cidr('192.168.0.7/24').masked())", r#""192.168.0.0/24""#),
        ("[ip('1.2.3.4').family(), cidr('::/0').ip().family(), cidr('::/0').prefixLength()]", "[4,6,0]"),
        ("ip('::1').isLoopback() && ip('169.254.0.1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast()", "true"),
        ("quantity('1Gi').isGreaterThan(quantity('1M')) && quantity('1k') == quantity('1000')", "true"),
        ("quantity('1').add(quantity('2')).sub(1).asInteger()", "2"),
        ("quantity('1.5').isInteger() || quantity('1.5').asApproximateFloat() > 1.5", "false"),
        ("semver('1.2.3-alpha').isLessThan(semver('1.2.3')) && semver('v1.0', true).major() == 1", "true"),
        ("[isSemver('1.2'), isSemver('1.2', true), isSemver('01.2.3')]", "[false,true,false]"),
        ("format.dns1123Label().validate('a').hasValue()", "false"),
        ("format.named('dns1123Label').value().validate('A').value().size()", "1"),
        ("duration('1h') + timestamp('2020-01-01T00:00:00.5Z')", r#""2020-01-01T01:00:00.5Z""#),
        ("timestamp('2020-01-01T00:00:00Z').getHours('America/New_York')", "19"),
        ("timestamp('2020-01-01T00:00:00Z').getHours('-02:30')", "21"),
        ("[string(duration('90m')), string(1.0), string(1e30), string(1.5)]", r#"["5400s","1","1e+30","1.5"]"#),
    ]);
}

#[test]
fn faults() {
    check(&[
        ("1 / 0", "ERROR division by zero"),
        ("1 % 0", "ERROR modulus by zero"),
        ("9223372036854775807 + 1", "ERROR integer overflow"),
        ("-(-9223372036854775807 - 1)", "ERROR integer overflow"),
        ("(-9223372036854775807 - 1) / -1", "ERROR integer overflow"),
        ("0u - 1u", "ERROR unsigned integer overflow"),
        ("l[10]", "ERROR index out of bounds: 10"),
        ("l[-1]", "ERROR index out of bounds: -1"),
        ("object.spec.missing > 1", "ERROR no such key: missing"),
        ("m['z']", "ERROR no such key: z"),
        ("has(object.zz.yy)", "ERROR no such key: zz"),
        ("object.spec.replicas + ''", "ERROR no such overload"),
        ("false || object.a", "ERROR no such overload"),
        ("int('x')", "ERROR type conversion error from 'string' to 'int'"),
        ("int(1e300)", "ERROR integer overflow"),
        ("optional.none().value()", "ERROR optional.none() dereference"),
        ("'abc'.charAt(5)", "ERROR index out of range: 5"),
        ("'é'.substring(2)", "ERROR invalid substring range. start: 2, end: 1"),
        ("[].max()", "ERROR max called on empty list"),
        ("object.spec.replicas.all(x, true)", "ERROR got 'int', expected iterable type"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "ERROR timestamp overflow"),
        ("s.matches(s + '[')", "ERROR error parsing regexp: error: unclosed character class"),
        (
            "quantity('abc')",
            "ERROR quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ]);
}

#[test]
fn compile_errors() {
    check(&[
        ("self = 42", "COMPILE 1:6: Syntax error: token recognition error at: '= '"),
        ("object.a b", "COMPILE 1:10: Syntax error: extraneous input 'b' expecting <EOF>"),
        (
            "1 +",
            "COMPILE 1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        ("'a", "COMPILE 1:1: Syntax error: token recognition error at: ''a'"),
        ("@", "COMPILE 1:1: Syntax error: token recognition error at: '@'"),
        ("namespace.x", "COMPILE 1:1: reserved identifier: namespace"),
        ("9223372036854775808", "COMPILE 1:1: invalid int literal"),
        ("i + 'x'", "COMPILE 1:3: found no matching overload for '_+_' applied to '(int, string)'"),
        ("s.startsWith(1)", "COMPILE 1:13: found no matching overload for 'startsWith' applied to 'string.(int)'"),
        (
            "nope == 1 || undef(1)",
            "COMPILE 1:1: undeclared reference to 'nope' (in container ''); 1:19: undeclared reference to 'undef' (in container '')",
        ),
        ("i.foo", "COMPILE 1:2: type 'int' does not support field selection"),
        ("[1, 'a']", "COMPILE 1:5: expected type 'int' but found 'string'"),
        ("{'a': 1, 'b': 'c'}", "COMPILE 1:15: expected type 'int' but found 'string'"),
        ("l.all(x, x)", "COMPILE 1:10: expected type 'bool' but found 'int'"),
        (
            "s.all(x, true)",
            "COMPILE 1:1: expression of type 'string' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("l.map(1, 2)", "COMPILE 1:7: argument must be a simple name"),
        ("has(l)", "COMPILE 1:5: invalid argument to has() macro"),
        ("s == null", "COMPILE 1:3: found no matching overload for '_==_' applied to '(string, null)'"),
        ("1 == 1.0", "COMPILE 1:3: found no matching overload for '_==_' applied to '(int, double)'"),
        ("string(type(1))", "COMPILE 1:7: found no matching overload for 'string' applied to '(type(int))'"),
        ("s.matches('[')", "COMPILE 1:11: invalid matches argument"),
        ("duration('xx') == duration(s)", "COMPILE 1:10: invalid duration argument"),
        ("Object{spec: 1}", "COMPILE 1:7: undeclared reference to 'Object' (in container '')"),
    ]);
    let error = Program::compile("true\n && i", &env()).unwrap_err();
    assert_eq!(error.0, "ERROR: <input>:2:5: expected type 'bool' but found 'int'\n |  && i\n | ....^");
}

#[test]
fn objects_of_known_fields() {
    let field = |name: &str, ty: Type| (types::escape(name).unwrap(), types::Field { name: name.into(), ty });
    let fields = [
        field("namespace", Type::String),
        field("a-b", Type::Double),
        field("when", Type::Timestamp),
        field("n", Type::Double),
    ];
    let object = types::ObjectType { name: "selfType".into(), fields: fields.into_iter().collect() };
    let env = Env::new([("self", Type::Object(std::sync::Arc::new(object)))]);
    let value = json::parse(br#"{"namespace":"x","a-b":3,"n":2,"when":"2020-01-01T00:00:00Z"}"#).unwrap();
    let run = |source: &str| {
        let program = Program::compile(source, &env).map_err(|e| e.0)?;
        let mut cx = Cx::new(BUDGET);
        cx.set("self", (&value).into());
        cx.run(&program).and_then(|v| v.to_json()).map_err(|e| e.to_string())
    };
    assert_eq!(run("self.__namespace__"), Ok("x".into()));
    // A number without a fraction is a number still.
    assert_eq!(run("self.a__dash__b / self.n"), Ok(Value::Float(1.5)));
    assert_eq!(run("self.when.getFullYear()"), Ok(Value::Int(2020)));
    let error = run("self.z == 100").unwrap_err();
    assert_eq!(error, "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^");
}

/// The tariff is upstream's, where the expression's authors would notice.
#[test]
fn costs() {
    for (source, wanted) in [
        ("object.spec.replicas > 1", 4),
        ("l.all(x, x > 0)", 17),
        ("l.exists(x, x > 2)", 11),
        ("l.exists_one(x, x > 2)", 11),
        ("l.map(x, x * 2)", 44),
        ("l.filter(x, x > 1)", 34),
        ("has(object.spec)", 1),
        ("i > 3 ? i : 1", 2),
        ("object['spec']['replicas']", 3),
        ("l.isSorted()", 4),
        ("l.map(x, l.map(y, x+y)).size()", 180),
        ("quantity('1Gi').isGreaterThan(quantity('1M'))", 3),
    ] {
        assert_eq!(cost(source), wanted, "{source}");
    }
}

/// Nothing that an expression says takes long, much memory or the stack.
#[test]
fn hostile_expressions() {
    let out = "ERROR operation cancelled: actual cost limit exceeded";
    let long = "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'";
    check(&[
        ("lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, true)))", out),
        ("lists.range(9223372036854775807).size()", out),
        (&format!("lists.range(50000).map(x, {long}).join({long}).size()"), out),
        ("lists.range(20000).map(x, 'a').join().replace('', lists.range(20000).map(x, 'b').join()).size()", out),
        ("lists.range(100000).distinct().size()", out),
        ("lists.range(10000).map(x, 'a'.matches('a{' + string(x % 1000) + '}')).size()", out),
        ("[lists.range(400000)].map(z, sets.equivalent(z, z)).size()", out),
        ("true || (lists.range(9999999).all(x, true))", "true"),
        ("(lists.range(9999999).all(x, true)) || true", out),
    ]);
    let doubled = (0..40).fold("[1]".to_owned(), |inner, _| format!("[{inner}].map(x, x + x)[0]"));
    assert_eq!(shown(&format!("{doubled}.size()")), out);
    let deep = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(shown(&deep(90)), "1");
    for source in [
        deep(5000),
        format!("1{}", " + 1".repeat(5000)),
        format!("object{}", ".a".repeat(5000)),
        format!("object{}", "[0]".repeat(5000)),
        (0..300).fold("optional.of(1)".to_owned(), |inner, _| format!("{inner}.optMap(x, x + 1)")),
        (0..3000).fold("1".to_owned(), |inner, _| format!("true ? 0 : {inner}")),
        "[".repeat(9000),
        "!".repeat(9000) + "(".repeat(9000).as_str(),
    ] {
        let found = shown(&source);
        assert!(found.contains("expression recursion limit exceeded"), "{found}");
    }
    assert_eq!(shown(&format!("{}1", "-".repeat(5001))), "-1");
    assert_eq!(shown(&format!("true{}", " && true".repeat(5000))), "true");
    let nested = (0..60).fold("true".to_owned(), |inner, n| format!("[1].all(x{n}, {inner})"));
    assert_eq!(shown(&nested), "true");
    assert!(shown(&"a".repeat(100_001)).contains("expression code point size exceeds limit"));
}

#[test]
fn variables_are_lazy_and_evaluated_once() {
    let known = |names: &[&'static str]| Type::object("kubernetes.variables", names.iter().map(|n| (*n, Type::Int)));
    let variable = |name: &str, source: &str| Variable {
        name: name.into(),
        program: Program::compile_to(source, &env().with("variables", known(&["a"])), &[]),
    };
    let variables = [variable("a", "lists.range(1000).sum()"), variable("b", "variables.a + 1 / 0")];
    let run = |source: &str| {
        let program = Program::compile(source, &env().with("variables", known(&["a", "b"]))).unwrap();
        let mut cx = Cx::new(BUDGET);
        cx.set_variables(&variables);
        let result = cx.run(&program).and_then(|v| v.to_json()).map_err(|e| e.to_string());
        (result, BUDGET - cx.budget())
    };
    let (once, twice) = (run("variables.a"), run("[variables.a, variables.a].sum()"));
    assert_eq!(once.0, Ok(Value::Int(499_500)));
    assert!(twice.1 < once.1 + 100);
    // A value is not larger, nor deeper, than what it costs to look at it.
    let weighed = |source: &str| {
        let program = Program::compile(source, &env()).unwrap();
        let mut cx = Cx::new(BUDGET);
        let value = cx.run(&program).unwrap();
        cx.weigh(&value)
    };
    let doubled = (0..40).fold("[1]".to_owned(), |inner, _| format!("[{inner}].map(x, [x, x])[0]"));
    assert_eq!(weighed(&doubled), Err(Fault::OutOfBudget));
    assert_eq!(weighed("{'a': ['x', 'y'], 'b': ['z']}"), Ok(()));
    let deep: Vec<Variable> = (0..300)
        .map(|n| Variable {
            name: format!("v{n}"),
            program: Program::compile_to(
                &if n == 0 { "[]".to_owned() } else { format!("[variables.v{}]", n - 1) },
                &env().with("variables", Type::Dyn),
                &[],
            ),
        })
        .collect();
    let program = Program::compile("[variables.v100, variables.v199]", &env().with("variables", Type::Dyn)).unwrap();
    let all: Vec<String> = (0..300).map(|n| format!("(variables.v{n} == [] || true)")).collect();
    let each = Program::compile(&all.join(" && "), &env().with("variables", Type::Dyn)).unwrap();
    let mut cx = Cx::new(BUDGET);
    cx.set_variables(&deep);
    assert!(cx.run(&program).unwrap_err().to_string().contains("variables refer to each other too deeply"));
    let mut cx = Cx::new(BUDGET);
    cx.set_variables(&deep);
    assert_eq!(cx.run(&each).map(|v| v.as_bool()), Ok(Ok(true)));
    let why = r#"composited variable "b" fails to evaluate: division by zero"#;
    assert_eq!(run("variables.b").0, Err(why.into()));
    assert_eq!(run("true || variables.b > 1").0, Ok(Value::Bool(true)));
}

#[test]
fn types_do_not_grow_beyond_their_expression() {
    check(&[
        ("[1].map(x, {x: x}).map(x, {x: x})", "COMPILE 1:28: unsupported key type: map(int, int)"),
        ("{null: 1}", "COMPILE 1:2: unsupported key type: null"),
        ("{dyn([1]): 1}", "ERROR unsupported key type: list"),
        ("{1: 'a', 2: 'b'}.size() + {true: 1}.size() + {1u: 1}.size() + {1.0: 1}.size()", "5"),
    ]);
    let doubled = (0..30).fold("[1]".to_owned(), |inner, _| format!("{inner}.map(x, {{x: x}})"));
    assert!(shown(&doubled).starts_with("COMPILE 1:28: unsupported key type: map(int, int)"));
    // Beyond some size types are dynamic.
    let deep = (0..90).fold("[1]".to_owned(), |inner, _| format!("{inner}.map(x, {{'a': [[[x]]]}})"));
    assert_eq!(shown(&format!("{deep}.size()")), "1");
    let wide = (0..40).fold("optional.of(1)".to_owned(), |inner, _| format!("{inner}.optMap(x, {{'a': x, 'b': x}})"));
    assert_eq!(shown(&format!("{wide}.hasValue()")), "true");
    // Every variable stands for a type in which the next one is twice.
    let equal: Vec<String> = (0..24).map(|n| format!("x{n} == {{x{}: x{}}}", n + 1, n + 1)).collect();
    let body = format!("[{}, x0 == x0, [x0] == [x0]]", equal.join(", "));
    let nested = (0..25).rev().fold(body, |inner, n| format!("[].map(x{n}, {inner})"));
    assert_eq!(shown(&nested), "[]");
}

#[test]
fn overloads_that_do_not_fit_leave_no_trace() {
    check(&[
        ("[[], [1], []].map(x, x.size())", "[0,1,0]"),
        ("[].map(x, x + 1) + [1]", "[1]"),
        (
            "[[], ['a']] == [[], [1]]",
            "COMPILE 1:13: found no matching overload for '_==_' applied to '(list(list(string)), list(list(int)))'",
        ),
    ]);
}

#[test]
fn patterns_are_paid_for_before_they_are_compiled() {
    let out = "ERROR operation cancelled: actual cost limit exceeded";
    let broken = "lists.range(100).exists(x, 'a'.matches(s + '['))";
    check(&[
        ("lists.range(10000).exists(x, 'a'.matches(string(x) + '['))", out),
        (broken, "ERROR error parsing regexp: error: unclosed character class"),
    ]);
    // That it does not compile is remembered.
    assert!((5_000..10_000).contains(&cost(broken)), "{}", cost(broken));
}

#[test]
fn patterns_that_are_written_out_are_counted_once() {
    fn all(pattern: fn(usize) -> String) -> String {
        (0..150).map(|n| format!("s.matches('{}')", pattern(n))).collect::<Vec<_>>().join(" || ")
    }
    assert_eq!(shown(&all(|n| format!("t{}", "e".repeat(n % 2)))), "true");
    assert!(shown(&all(|n| format!("t{n}"))).contains("too many regular expressions"));
}

#[test]
fn what_has_no_order_is_sorted_or_refused() {
    let numbers = "lists.range(60).map(x, x % 3 == 0 ? double('NaN') : double(60 - x)).sort()";
    check(&[
        (&format!("{numbers}.slice(0, 3)"), "[1,2,4]"),
        ("lists.range(60).map(x, x % 2 == 0 ? dyn(x) : dyn(string(x))).sort()", "ERROR no such overload"),
    ]);
}

#[test]
fn many_problems_of_long_lines_are_told_shortly() {
    let error = Program::compile(&vec!["nothing"; 10_000].join("||"), &env()).unwrap_err().0;
    assert_eq!(error.matches("ERROR: <input>:1:").count(), 100);
    assert!(error.len() < 1 << 20, "{} bytes", error.len());
}

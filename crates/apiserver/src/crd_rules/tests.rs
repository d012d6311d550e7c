use schema::json;

use super::*;

const SCHEMA: &str = r#"{"type":"object","required":["i"],"properties":{
    "i":{"type":"integer"},"s":{"type":"string"},"s2":{"type":"string","maxLength":10},
    "l":{"type":"array","items":{"type":"integer"}},
    "l2":{"type":"array","maxItems":5,"items":{"type":"string","maxLength":7}},
    "l3":{"type":"array","maxItems":5,"items":{"type":"integer"}},
    "l4":{"type":"array","maxItems":5,"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","maxLength":3}}}},
    "m":{"type":"object","maxProperties":4,"additionalProperties":{"type":"string","maxLength":9}},
    "m2":{"type":"object","additionalProperties":{"type":"array","items":{"type":"string"}}},
    "o":{"type":"object","properties":{"a":{"type":"string"}}},"x":{"x-kubernetes-int-or-string":true},
    "e":{"type":"string","enum":["a","bcd"]},"b":{"type":"string","format":"byte"},
    "d":{"type":"string","format":"duration"},"t":{"type":"string","format":"date-time"}}}"#;

fn estimate(source: &str) -> u64 {
    let schema = Schema::new(&json::parse(SCHEMA.as_bytes()).unwrap(), "").unwrap();
    let shape = shape(schema.node(), false, "selfType").unwrap();
    let env = Env::new([("self", shape.ty.clone())]);
    Program::compile(source, &env).map_or(0, |program| program.estimate(&shape.place).max)
}

/// Upstream's estimates of the same rules.
#[test]
fn estimates() {
    for (source, wanted) in [
        ("self.s + self.s", 629_150),
        ("self.l.all(x, x > 1)", 7_864_318),
        ("self.l2.map(x, x + 'a').all(y, y == 'ab')", 114),
        ("self.m.all(k, self.m[k] == 'a')", 35),
        ("self.s.matches('^a+$')", 314_575),
        ("self.s2.split(',').all(x, x == 'a')", 171),
        ("self.l2.join(',')", 17),
        ("self.l2.isSorted()", 22),
        ("self.l2.exists(x, self.l2.exists(y, x == y))", 263),
        ("has(self.s) && self.s == 'a'", 4),
        ("self.l2.filter(x, x.startsWith('a')).size() > 1", 90),
        ("self.i > 1 ? self.s2 == 'a' : self.s == 'a'", 6),
        ("self.l4.all(o, o.k == 'a' && self.l4.exists(p, p.k == o.k))", 298),
        ("self.m.transformMap(k, v, v + 'x').size() > 1", 67),
        ("self.m2.all(k, self.m2[k].all(x, x == 'a'))", 2_061_580_238_848),
        ("type(self.x) == int ? self.x == 1 : self.x == 'a'", 7),
        ("self.?s2.optMap(x, x == 'a').orValue(true)", 20),
        ("format.dns1123Label().validate(self.s2).hasValue()", 132),
        ("string(self.x) == 'a'", 314_576),
    ] {
        assert_eq!(estimate(source), wanted, "{source}");
    }
}

#[test]
fn field_paths() {
    let schema = Schema::new(&json::parse(SCHEMA.as_bytes()).unwrap(), "").unwrap();
    let normal = |path: &str| normal_path(schema.node(), path);
    assert_eq!(normal(".o.a").as_deref(), Some("o.a"));
    assert_eq!(normal("['o'].a").as_deref(), Some("o.a"));
    assert_eq!(normal(".m['k']").as_deref(), Some("m[k]"));
    for wrong in [".nope", "o", ".o.", ".m.k", ".m['k", ".l[0]", "["] {
        assert_eq!(normal(wrong), None, "{wrong}");
    }
}

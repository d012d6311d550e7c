use super::*;

/// Rows that upstream's apiextensions code answered: a schema and an object, what is unknown, what becomes of it,
/// and what is wrong with it; or what is wrong with the schema.
#[test]
fn answers_as_upstream() {
    let mut failures = Vec::new();
    for line in include_str!("../../tests/golden/custom.txt").lines() {
        let row = json::parse(line.as_bytes()).unwrap();
        let texts = |name: &str| {
            row.list_at(&[name]).iter().map(|e| e.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let mut differ = |what: &str, ours: String, theirs: String| {
            if ours != theirs {
                failures.push(format!("{}\n  {what}\n  ours   {ours}\n  theirs {theirs}", row["schema"]));
            }
        };
        // Each has its own words for what is wrong with a regular expression.
        let cut = |text: String| text.split("but isn't").next().unwrap_or_default().to_owned();
        let print = |errors: Vec<FieldError>| {
            let mut texts: Vec<String> = errors.iter().map(|e| cut(e.to_string())).collect();
            texts.sort();
            texts.join("\n         ")
        };
        let theirs: Vec<String> = texts("schemaErrors").into_iter().map(cut).collect();
        match Schema::new(&row["schema"], "") {
            Err(errors) => differ("schema", print(errors), theirs.join("\n         ")),
            Ok(schema) => {
                differ("schema", String::new(), theirs.join("\n         "));
                if row["object"].is_null() {
                    continue;
                }
                let mut object = row["object"].clone();
                let unknown: Vec<String> = schema
                    .prune(&mut object)
                    .into_iter()
                    .map(|p| match p {
                        FieldProblem::Unknown(path) | FieldProblem::Duplicate(path) => path,
                        other => other.to_string(),
                    })
                    .collect();
                differ("unknown", unknown.join(" "), texts("unknown").join(" "));
                schema.default(&mut object);
                differ("result", object.to_string(), row["result"].to_string());
                differ("errors", print(schema.validate(&object, None)), texts("errors").join("\n         "));
            }
        }
    }
    assert!(failures.is_empty(), "{} rows differ\n{}", failures.len(), failures.join("\n"));
}

fn schema(text: &str) -> Schema {
    Schema::new(&crate::yaml::parse(text.as_bytes()).unwrap().value, "schema").unwrap()
}

#[test]
fn rules_see_old_values_where_they_correlate() {
    let schema = schema(
        r#"{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"spec"}],"properties":{
        "m":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
             "items":{"type":"object","x-kubernetes-validations":[{"rule":"item"}],"properties":{"k":{"type":"string"},"v":{"type":"string"}}}},
        "a":{"type":"array","items":{"type":"string","x-kubernetes-validations":[{"rule":"atom"}]}}}}}}"#,
    );
    let new = json::parse(br#"{"spec":{"m":[{"k":"2","v":"b"},{"k":"1","v":"a"}],"a":["x"]}}"#).unwrap();
    let old = json::parse(br#"{"spec":{"m":[{"k":"1","v":"z"}],"a":["y"]}}"#).unwrap();
    let mut seen = Vec::new();
    let errors = schema.evaluate(&new, Some(&old), &mut |rule, value, old, path| {
        let old = old.map(ToString::to_string).unwrap_or_default();
        if rule.rule != "spec" {
            seen.push(format!("{path} {value} {old}"));
        }
        Vec::new()
    });
    assert_eq!(errors, []);
    assert_eq!(
        seen,
        [r#"spec.a[0] "x" "#, r#"spec.m[0] {"k":"2","v":"b"} "#, r#"spec.m[1] {"k":"1","v":"a"} {"k":"1","v":"z"}"#]
    );
}

#[test]
fn apply_serves_custom_resources_by_the_table() {
    use crate::{Type, apply};
    let schema = schema(
        r#"{"type":"object","properties":{"spec":{"type":"object","properties":{
        "m":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
             "items":{"type":"object","properties":{"k":{"type":"string","default":"d"},"v":{"type":"string"}}}},
        "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}"#,
    );
    let ty = Type::Message(schema.root);
    let object = |spec: &str| {
        json::parse(
            format!(
                r#"{{"apiVersion":"x/v1","kind":"K","metadata":{{"name":"n","labels":{{"a":"b"}}}},"spec":{spec}}}"#
            )
            .as_bytes(),
        )
        .unwrap()
    };
    let now = "2026-01-01T00:00:00Z";
    let writer =
        |manager| apply::Writer { manager, api_version: "x/v1", subresource: "", now, resets: &[], others: None };
    let one = object(r#"{"m":[{"v":"1"}],"free":{"x":{"y":[1]}}}"#);
    let live = apply::apply(&schema.table, &ty, None, &one, writer("a"), false).unwrap().unwrap();
    let fields = &live["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert_eq!(
        fields.to_string(),
        r#"{"f:free":{"f:x":{".":{},"f:y":{}}},"f:m":{"k:{\"k\":\"d\"}":{".":{},"f:v":{}}}}"#
    );
    let two = object(r#"{"m":[{"k":"e","v":"2"}]}"#);
    let live = apply::apply(&schema.table, &ty, Some(&live), &two, writer("b"), false).unwrap().unwrap();
    assert_eq!(live["spec"]["m"].to_string(), r#"[{"v":"1"},{"k":"e","v":"2"}]"#);
    let bad = object(r#"{"n":1}"#);
    let error = apply::apply(&schema.table, &ty, Some(&live), &bad, writer("b"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/n; x/v1, Kind=K): .spec.n: field not declared in schema"
    );
}

#[test]
fn metadata_is_what_it_is_everywhere() {
    let schema = schema(r#"{"type":"object","properties":{"spec":{"type":"object"}}}"#);
    let mut object =
        json::parse(br#"{"metadata":{"name":"n","foo":1,"creationTimestamp":null,"labels":{"a":"b"}}}"#).unwrap();
    let problems: Vec<String> = schema.prune(&mut object).iter().map(ToString::to_string).collect();
    assert_eq!(problems, [r#"unknown field "metadata.foo""#]);
    assert_eq!(object.to_string(), r#"{"metadata":{"labels":{"a":"b"},"name":"n"}}"#);
    assert_eq!(schema.validate(&object, None), []);
    object.set(&["metadata", "labels", "a"], 1);
    assert_eq!(schema.prune(&mut object), []);
    let errors: Vec<String> = schema.validate(&object, None).iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            r#"metadata: Invalid value: {"labels":{"a":1},"name":"n"}: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"#
        ]
    );
}

#[test]
fn types_at_paths() {
    let schema = schema(
        "{type: object, properties: {spec: {type: object, properties: {color: {type: string, enum: [red]}, size: {type: integer}, list: {type: array, items: {type: string}}, labels: {type: object, additionalProperties: {type: string}}, any: {type: object, additionalProperties: true}, free: {x-kubernetes-preserve-unknown-fields: true}}}}}",
    );
    for (path, ty) in [
        (".spec.color", Ok(Some("string"))),
        (".spec.size", Ok(Some("integer"))),
        (".spec.list", Ok(Some("array"))),
        (".spec.labels.a", Ok(Some("string"))),
        (".spec.any.a", Ok(None)),
        (".spec.free", Ok(None)),
        (".spec", Ok(Some("object"))),
        (".spec.weight", Err("does not refer to a valid field")),
        (".spec.color.x", Err("does not refer to a valid field")),
        (".spec.any.a.b", Err("does not refer to a valid field")),
        (".spec..color", Err("does not refer to a valid field")),
        (".spec.", Err("unexpected end of JSON path")),
        ("spec.color", Err("expected [ or . but got: spec")),
        (".spec]", Err("expected [ or . but got: ]")),
        (".spec['color']", Err("array notation is not allowed")),
        (".spec.list[0]", Err("array notation is not allowed")),
        (".\u{e4}", Err("does not refer to a valid field")),
    ] {
        assert_eq!(schema.type_at(path), ty.map_err(str::to_owned), "{path}");
    }
}

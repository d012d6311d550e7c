//! Parts are cut out whole, and join without a definition changing its meaning.

use schema::{json, yaml};

use super::*;

fn value(text: &str) -> Value {
    yaml::parse(text.as_bytes()).unwrap().value
}

#[test]
fn parts() {
    let document = value(
        "{swagger: '2.0', parameters: {watch-1: {name: watch, in: query}}, paths: {/apis/: {get: {}}, /apis/g/v1/: {get: {schema: {$ref: '#/definitions/List'}}}, /apis/g/v1/as: {parameters: [{$ref: '#/parameters/watch-1'}], get: {schema: {$ref: '#/definitions/A'}}}, /apis/g/v1beta1/as: {get: {schema: {$ref: '#/definitions/B'}}}}, definitions: {A: {properties: {a: {$ref: '#/definitions/A'}, m: {$ref: '#/definitions/Meta'}, x: {$ref: '#/definitions/Nowhere'}}}, B: {}, List: {}, Meta: {type: object}}}",
    );
    assert_eq!(
        of(document.clone(), "/apis/g/v1"),
        value(
            "{paths: {/apis/g/v1/: {get: {schema: {$ref: '#/definitions/List'}}}, /apis/g/v1/as: {parameters: [{name: watch, in: query}], get: {schema: {$ref: '#/definitions/A'}}}}, definitions: {A: {properties: {a: {$ref: '#/definitions/A'}, m: {$ref: '#/definitions/Meta'}, x: {$ref: '#/definitions/Nowhere'}}}, List: {}, Meta: {type: object}}}"
        )
    );
    let empty = value("{paths: {}, definitions: {}}");
    assert_eq!(of(document, "/apis/g/v2"), empty);
    for odd in ["[]", "{paths: [], definitions: 3}", "null"] {
        assert_eq!(of(value(odd), "/apis/g/v1"), empty, "{odd}");
    }
}

#[test]
fn joined_documents() {
    let mut ours = value(
        "{paths: {/a: {get: ours}}, definitions: {Same: {type: string}, Meta: {type: object}, Meta_v2: {type: integer}}}",
    );
    join(
        &mut ours,
        value(
            "{paths: {/a: {get: theirs}, /b: {get: {schema: {$ref: '#/definitions/Meta'}}}}, definitions: {Same: {type: string}, New: {m: {$ref: '#/definitions/Meta'}, s: {$ref: '#/definitions/Same'}}, Meta: {type: array}}}",
        ),
    );
    assert_eq!(
        ours,
        value(
            "{paths: {/a: {get: ours}, /b: {get: {schema: {$ref: '#/definitions/Meta_v3'}}}}, definitions: {Same: {type: string}, Meta: {type: object}, Meta_v2: {type: integer}, Meta_v3: {type: array}, New: {m: {$ref: '#/definitions/Meta_v3'}, s: {$ref: '#/definitions/Same'}}}}"
        )
    );
}

#[test]
fn shared_parameters_are_inlined_within_bounds() {
    let long = "x".repeat(1 << 20);
    let references = vec![r##"{"$ref":"#/parameters/long"}"##; 100].join(",");
    let text = format!(
        r#"{{"parameters":{{"long":{{"description":"{long}"}}}},"paths":{{"/apis/g/v1/x":{{"parameters":[{references}]}}}}}}"#
    );
    let part = of(json::parse(text.as_bytes()).unwrap(), "/apis/g/v1").to_string();
    assert!((4 << 20..10 << 20).contains(&part.len()), "{} bytes", part.len());
    assert!(part.contains("#/parameters/long"));
}

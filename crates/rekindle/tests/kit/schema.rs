//! Whether a JSON value is what a documented schema says: the part of JSON Schema that our schemas use, and nothing that is
//! not understood passes.

use serde_json::Value;

/// Every way in which `value` is not as `schema` says; `root` holds the definitions.
pub fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let name = name.strip_prefix("#/$defs/").unwrap_or_else(|| panic!("{name}"));
        let mut found = faults(root, &root["$defs"][name], value, at);
        // What stands beside a reference holds as well.
        let mut beside = schema.as_object().unwrap().clone();
        beside.remove("$ref");
        found.extend(faults(root, &Value::Object(beside), value, at));
        return found;
    }
    let mut found = Vec::new();
    for (key, wanted) in schema.as_object().into_iter().flatten() {
        match key.as_str() {
            "type" if !is_of(wanted, value) => found.push(format!("{at}: {value} is no {wanted}")),
            "const" if wanted != value => found.push(format!("{at}: {value} is not {wanted}")),
            "required" => found.extend(missing(wanted, value, at)),
            "properties" => {
                for (name, inner) in wanted.as_object().unwrap() {
                    if let Some(v) = value.get(name) {
                        found.extend(faults(root, inner, v, &format!("{at}.{name}")));
                    }
                }
            }
            "items" => {
                for (i, v) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(root, wanted, v, &format!("{at}[{i}]")));
                }
            }
            "oneOf" | "anyOf" => {
                let tried: Vec<_> =
                    wanted.as_array().unwrap().iter().map(|s| faults(root, s, value, at)).collect();
                if !tried.iter().any(Vec::is_empty) {
                    // The nearest miss says most.
                    found.extend(tried.into_iter().min_by_key(Vec::len).unwrap());
                }
            }
            "additionalProperties" => found.extend(additional(root, schema, wanted, value, at)),
            "minItems" if (value.as_array().unwrap().len() as u64) < wanted.as_u64().unwrap() => {
                found.push(format!("{at}: too short"));
            }
            "maxItems" if (value.as_array().unwrap().len() as u64) > wanted.as_u64().unwrap() => {
                found.push(format!("{at}: too long"));
            }
            "type" | "const" | "minItems" | "maxItems" | "$schema" | "title" | "description" | "format"
            | "minimum" | "maximum" | "$defs" | "default" => {}
            other => panic!("{other} is not understood"),
        }
    }
    found
}

fn is_of(wanted: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    wanted.as_array().map_or_else(|| is(wanted), |any| any.iter().any(is))
}

fn missing(wanted: &Value, value: &Value, at: &str) -> Vec<String> {
    let names = wanted.as_array().unwrap().iter().map(|n| n.as_str().unwrap());
    names.filter(|n| value.get(n).is_none()).map(|n| format!("{at} has no {n}")).collect()
}

fn additional(root: &Value, schema: &Value, wanted: &Value, value: &Value, at: &str) -> Vec<String> {
    let known = |name: &str| schema["properties"].get(name).is_some();
    let others = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
    match wanted {
        Value::Bool(true) => Vec::new(),
        Value::Bool(false) => others.map(|(name, _)| format!("{at} has {name}")).collect(),
        inner => others.flat_map(|(name, v)| faults(root, inner, v, &format!("{at}.{name}"))).collect(),
    }
}

//! The JSON Schemas by which editors help to write layouts, as the types give them.

use super::Layout;
use crate::layout::plan;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use jsonschema::Validator;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What editors know of a configuration: its layouts.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape matters")]
struct Configuration {
    /// Layouts besides the built-in ones.
    #[serde(default, rename = "layout")]
    layouts: Vec<Layout>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/layouts")
}

fn schema_of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(schema_of::<Layout>().as_value()).expect("a schema")
}

/// The layouts that come with the server, as file name and text.
fn built_in() -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let layouts = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("text");
        (path.display().to_string(), text)
    };
    layouts.map(read).collect()
}

#[test]
fn the_schemas_are_what_the_types_give() {
    for (file, schema) in
        [("schema.json", schema_of::<Layout>()), ("configuration.schema.json", schema_of::<Configuration>())]
    {
        let path = folder().join(file);
        if std::env::var_os("KALTSTART_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&schema).expect("it serialises");
            std::fs::write(&path, text + "\n").expect("the golden file is written");
        }
        let text = std::fs::read_to_string(&path).expect("the golden file is there");
        let committed: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(&committed, schema.as_value(), "{file}: write it anew with KALTSTART_GOLDEN=1");
    }
}

#[test]
fn every_built_in_layout_is_valid_and_names_its_schema() {
    let (validator, built_in) = (validator(), built_in());
    assert!(built_in.len() >= 2, "{built_in:?}");
    for (file, text) in built_in {
        let layout: Value = toml::from_str(&text).expect("TOML");
        let problems: Vec<String> = validator.iter_errors(&layout).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{file}: {problems:?}");
        assert!(text.starts_with("#:schema ./schema.json\n"), "{file}: an editor does not find the schema");
    }
}

#[test]
fn the_schema_refuses_what_cannot_be_read_and_nothing_that_is_good() {
    let validator = validator();
    let root = json!({"label": "root", "role": "root", "min_mib": 1});
    let with = |key: &str, value: Value| {
        let mut partition = root.clone();
        partition[key] = value;
        json!({"name": "x", "partitions": [partition]})
    };
    let good = |layout: &Value| {
        let read: Result<Layout, _> = serde_json::from_value(layout.clone());
        read.is_ok_and(|layout| plan::check(&layout).is_ok())
    };
    for layout in [with("weight", json!(7)), with("max_mib", json!(1)), with("options", json!(["ro"]))] {
        assert!(good(&layout) && validator.is_valid(&layout), "{layout}");
    }
    for layout in [
        json!([]),
        json!({"partitions": []}),
        json!({"name": "x"}),
        json!({"name": "x", "partitions": [], "partition": []}),
        json!({"name": "x", "partitions": [{"role": "root", "min_mib": 1}]}),
        json!({"name": "x", "partitions": [root], "tmpfs": [{"options": []}]}),
        with("role", json!("home")),
        with("min_mib", json!(0)),
        with("min_mib", json!("1 GiB")),
        with("max_mib", json!(-1)),
        with("weight", json!(0.5)),
        with("options", json!("ro")),
        with("size", json!(1)),
    ] {
        assert!(!validator.is_valid(&layout), "{layout}");
        assert!(!good(&layout), "the schema is stricter than the server: {layout}");
    }
}

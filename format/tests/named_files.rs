//! An image may name other files only where its opener allows that.

use std::path::Path;
use vmicache_format::files::{ChainOptions, Format, NamedFiles, create_image, inspect_chain, open_chain};
use vmicache_format::qcow2::{CreateOptions, DataFileOptions};
use vmicache_format::runtime::LocalRuntime;

/// What is said if the image at `path` is opened for reading.
fn opened(path: &Path, named_files: NamedFiles) -> Result<u64, String> {
    let runtime = LocalRuntime::new();
    let options = ChainOptions { named_files, ..ChainOptions::default() };
    let disk = runtime.block_on(open_chain(path, Format::Qcow2, &options, runtime.clone()));
    disk.map(|disk| disk.size()).map_err(|error| error.to_string())
}

#[test]
fn what_an_image_names_is_opened_only_if_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = LocalRuntime::new();
    std::fs::write(folder.path().join("secret"), [7; 4096]).unwrap();
    let backed = CreateOptions { backing: Some(("secret".into(), "raw".into())), ..CreateOptions::new(4096) };
    let with_data_file = CreateOptions {
        data_file: Some(DataFileOptions { name: "secret".into(), raw: false }),
        ..CreateOptions::new(4096)
    };
    for (name, options, what) in
        [("backed", backed, "backing file"), ("data", with_data_file, "external data file")]
    {
        let path = folder.path().join(name);
        runtime.block_on(create_image(&path, &options)).unwrap();
        let refusal = opened(&path, NamedFiles::default()).unwrap_err();
        assert!(refusal.contains(what) && refusal.contains("\"secret\""), "{refusal}");
        let inspected = runtime.block_on(inspect_chain(&path, Format::Qcow2, NamedFiles::Deny));
        assert!(inspected.is_err(), "{name}");
        assert_eq!(opened(&path, NamedFiles::Allow), Ok(4096), "{name}");
    }
}

#[test]
fn an_image_that_names_nothing_needs_no_leave() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain");
    LocalRuntime::new().block_on(create_image(&path, &CreateOptions::new(1 << 20))).unwrap();
    assert_eq!(opened(&path, NamedFiles::Deny), Ok(1 << 20));
}

#[test]
fn a_data_file_without_a_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let options = CreateOptions {
        data_file: Some(DataFileOptions { name: String::new(), raw: false }),
        ..CreateOptions::new(1 << 20)
    };
    LocalRuntime::new().block_on(create_image(&path, &options)).unwrap();
    let refusal = opened(&path, NamedFiles::Allow).unwrap_err();
    assert!(refusal.contains("whose name it does not state"), "{refusal}");
}

//! What is published.

use std::{path::Path, process::Command};

#[test]
fn the_package_has_its_protos_and_nothing_of_the_server() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let arguments = ["package", "--list", "--package", "keyward-client", "--allow-dirty", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files: Vec<_> =
        list.lines().filter(|file| !file.starts_with(".cargo_vcs") && !file.starts_with("Cargo.")).collect();
    for needed in [
        "LICENSE",
        "README.md",
        "build.rs",
        "examples/axum_service.rs",
        "proto/google/rpc/status.proto",
        "proto/keyward/v1/keys.proto",
        "src/lib.rs",
    ] {
        assert!(files.contains(&needed), "{needed} is missing in {files:?}");
    }
    let own = |file: &&str| ["src/", "examples/", "proto/"].iter().any(|folder| file.starts_with(folder));
    let rest: Vec<_> = files.iter().copied().filter(|file| !own(file)).collect();
    assert_eq!(rest, ["LICENSE", "README.md", "build.rs"]);
}

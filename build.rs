//! Compiles `proto/` with protox (no `protoc` needed), emits the descriptor set that reflection serves, and embeds the
//! migrations.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

#[path = "src/checkout.rs"]
mod checkout;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("migrations.rs"), embed_migrations(Path::new(&env::var("CARGO_MANIFEST_DIR")?))?)?;

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    // No message of the API refers to the details of errors, so name their file here: otherwise reflection would not
    // serve it.
    compiler.open_files([
        "keyward/v1/keys.proto",
        "keyward/v1/audit.proto",
        "google/rpc/error_details.proto",
        "envoy/service/auth/v3/external_auth.proto",
    ])?;
    // Encoded from the compiler itself: a prost round trip would drop custom options.
    fs::write(out.join("keyward.v1.bin"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();

    tonic_prost_build::configure()
        // Messages that carry a secret get a redacted Debug by hand (src/proto.rs).
        .skip_debug([
            "keyward.v1.CreateResponse",
            "keyward.v1.VerifyRequest",
            "keyward.v1.VerifyStreamRequest",
            "keyward.v1.UpdateWebhookResponse",
            "envoy.service.auth.v3.AttributeContext.HttpRequest",
            "keyward.v1.AttachLookUp",
        ])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .codec_path("crate::transport::grpc::codec::ProtoCodec")
        .compile_fds(descriptors)?;

    println!("cargo:rerun-if-env-changed=KEYWARD_COMMIT");
    let checkout = checkout::of(Path::new(&env::var("CARGO_MANIFEST_DIR")?));
    // Only release builds track the commit: in other profiles each commit would rebuild the crate.
    if env::var("PROFILE").as_deref() == Ok("release")
        && let Some(log) = checkout.as_ref().and_then(|checkout| checkout.log.as_ref())
    {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    let commit = env::var("KEYWARD_COMMIT").ok().or_else(|| checkout.map(|checkout| checkout.commit));
    println!("cargo:rustc-env=KEYWARD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    Ok(())
}

/// Writes Rust source with one table for each database: version, description and SQL of each migration, in their order.
/// sqlx has a macro for this; it would build both database drivers a second time for the compiler.
fn embed_migrations(root: &Path) -> Result<String, Box<dyn Error>> {
    let mut source = String::new();
    for (table, folder) in [("POSTGRES", "migrations/postgres"), ("SQLITE", "migrations/sqlite")] {
        let mut files = fs::read_dir(root.join(folder))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>, std::io::Error>>()?;
        files.sort();
        writeln!(source, "/// The migrations in `{folder}`: version, description, SQL.")?;
        writeln!(source, "pub(crate) const {table}: &[(i64, &str, &str)] = &[")?;
        for file in files {
            let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let (version, description) = name.split_once('_').ok_or("a migration is named NUMBER_DESCRIPTION.sql")?;
            let (version, description) = (version.parse::<i64>()?, description.replace('_', " "));
            let path = file.to_str().ok_or("the path of the sources is not UTF-8")?;
            writeln!(source, "    ({version}, {description:?}, include_str!({path:?})),")?;
        }
        writeln!(source, "];")?;
    }
    Ok(source)
}

//! Files of requests: a sequence of gRPC frames.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use data_encoding::BASE64;
use keyward::{
    domain::{
        clock::SystemEntropy,
        master_keys::{MasterKey, MasterKeys},
        secret::Encoding,
    },
    proto::{CreateRequest, RevokeRequest, VerifyRequest},
};
use prost::Message;

use crate::BoxError;

/// The keyspace of the seeded keys, as in `config/norrix.toml`.
pub const KEYSPACE: &str = "norrix";
pub const PREFIX: &str = "nrx_";
pub const ENCODING: Encoding = Encoding::Base64Url { bytes: 32 };
/// The organization and the scopes of the seeded keys.
pub const ORGANIZATION: &str = "acme";
pub const SCOPES: [&str; 3] = ["build", "submit", "update"];

/// Short metadata, as a typical caller attaches.
pub fn metadata() -> BTreeMap<String, String> {
    [("tier".to_owned(), "gold".to_owned()), ("region".to_owned(), "eu".to_owned())].into()
}

/// The keys that are derived from a master key in base64.
pub fn master_keys(text: &str) -> Result<MasterKeys, BoxError> {
    let mut key = MasterKey::new([0; 32]);
    let bytes = BASE64.decode(text.as_bytes())?;
    if bytes.len() != key.len() {
        return Err("the master key must be 32 bytes in base64".into());
    }
    key.copy_from_slice(&bytes);
    Ok(MasterKeys::derive(&key))
}

/// The request for a secret.
pub fn verify(secret: String) -> VerifyRequest {
    VerifyRequest { secret, keyspace: KEYSPACE.to_owned(), ..VerifyRequest::default() }
}

/// Writes a file of frames.
pub struct Frames(BufWriter<File>);

impl Frames {
    pub fn create(path: &Path) -> Result<Self, BoxError> {
        Ok(Self(BufWriter::new(File::create(path)?)))
    }

    pub fn push(&mut self, message: &impl Message) -> Result<(), BoxError> {
        let mut frame = vec![0; 5];
        message.encode(&mut frame)?;
        let length = u32::try_from(frame.len() - 5)?;
        frame[1..5].copy_from_slice(&length.to_be_bytes());
        Ok(self.0.write_all(&frame)?)
    }

    pub fn finish(mut self) -> Result<(), BoxError> {
        Ok(self.0.flush()?)
    }
}

/// The frames of a file.
pub struct Bodies {
    data: Vec<u8>,
    /// Where each frame begins, and where the last one ends.
    starts: Vec<usize>,
}

impl Bodies {
    pub fn read(path: &Path) -> Result<Self, BoxError> {
        let data = std::fs::read(path)?;
        let (mut starts, mut at) = (vec![0], 0);
        while let Some(header) = data.get(at + 1..at + 5) {
            at += 5 + u32::from_be_bytes(header.try_into()?) as usize;
            starts.push(at);
        }
        if at != data.len() || starts.len() < 2 {
            return Err(format!("{} is not a file of frames", path.display()).into());
        }
        Ok(Self { data, starts })
    }

    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// A frame with its header.
    pub fn frame(&self, index: usize) -> &[u8] {
        &self.data[self.starts[index]..self.starts[index + 1]]
    }

    /// The message of a frame.
    pub fn message(&self, index: usize) -> &[u8] {
        &self.frame(index)[5..]
    }
}

#[derive(Args)]
pub struct Forge {
    #[arg(long)]
    count: usize,
    #[arg(long)]
    out: PathBuf,
}

impl Forge {
    /// Makes secrets with another master key: they are well-formed, but their checksum is wrong.
    pub fn run(self) -> Result<(), BoxError> {
        let other = MasterKeys::derive(&MasterKey::new([7; 32]));
        let mut frames = Frames::create(&self.out)?;
        for _ in 0..self.count {
            let secret = ENCODING.generate(PREFIX, &other, &SystemEntropy);
            frames.push(&verify(secret.expose().to_owned()))?;
        }
        frames.finish()
    }
}

#[derive(Args)]
pub struct Creates {
    #[arg(long)]
    count: usize,
    #[arg(long)]
    out: PathBuf,
}

impl Creates {
    pub fn run(self) -> Result<(), BoxError> {
        let mut frames = Frames::create(&self.out)?;
        for number in 0..self.count {
            frames.push(&CreateRequest {
                keyspace: KEYSPACE.to_owned(),
                organization: ORGANIZATION.to_owned(),
                name: format!("key {number}"),
                scopes: SCOPES.map(str::to_owned).to_vec(),
                metadata: metadata().into_iter().collect(),
                ..CreateRequest::default()
            })?;
        }
        frames.finish()
    }
}

#[derive(Args)]
pub struct Revokes {
    #[arg(long)]
    ids: PathBuf,
    #[arg(long)]
    out: PathBuf,
}

impl Revokes {
    pub fn run(self) -> Result<(), BoxError> {
        let mut frames = Frames::create(&self.out)?;
        for id in std::fs::read_to_string(&self.ids)?.lines() {
            frames.push(&RevokeRequest { id: id.to_owned(), reason: "measured".to_owned() })?;
        }
        frames.finish()
    }
}

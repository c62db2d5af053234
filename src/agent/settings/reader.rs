//! Reads the values of settings from flags, the environment and files, and collects every problem.

use std::{collections::HashMap, fs, io::ErrorKind, path::PathBuf};

use keyward_client::Tls;

use super::{
    flags::Flags,
    names::{API_KEY, CREDENTIAL, CREDENTIAL_FILE, Setting, UPSTREAM_CA, UPSTREAM_CERT, UPSTREAM_KEY},
};
use crate::{config, domain::secret::Secret, service::gateway::GatewayConfig};

/// The largest file that is read: a chain of certificates is far smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads settings. Flags go before variables of the environment.
pub(super) struct Reader<'a> {
    pub(super) environment: &'a HashMap<String, String>,
    pub(super) problems: Vec<String>,
}

impl Reader<'_> {
    pub(super) fn problem(&mut self, setting: &Setting, why: &str) {
        let flag = setting.flag.map(|flag| format!("{flag} or ")).unwrap_or_default();
        self.problems.push(format!("{flag}{}: {why}", setting.variable));
    }

    pub(super) fn parsed<T>(&mut self, setting: &Setting, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|why| self.problem(setting, &why)).ok()
    }

    pub(super) fn one(&self, setting: &Setting, flag: Option<&String>) -> Option<String> {
        flag.or_else(|| self.environment.get(setting.variable)).cloned()
    }

    /// Flags that are given several times, or a variable with commas.
    pub(super) fn list(&mut self, setting: &Setting, flags: &[String], max: usize) -> Vec<String> {
        let variable = || self.environment.get(setting.variable).map(String::as_str).unwrap_or_default();
        let list: Vec<String> = if flags.is_empty() {
            variable().split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        } else {
            flags.to_vec()
        };
        if list.len() > max {
            self.problem(setting, &format!("must be at most {max}"));
        }
        list
    }

    pub(super) fn switch(&mut self, setting: &Setting) -> bool {
        match self.environment.get(setting.variable).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                self.problem(setting, "must be true or false");
                false
            }
        }
    }

    pub(super) fn file(&mut self, setting: &Setting, flag: Option<&PathBuf>) -> Option<Vec<u8>> {
        let path = flag.cloned().or_else(|| self.environment.get(setting.variable).map(PathBuf::from))?;
        let read = fs::metadata(&path).and_then(|found| {
            if found.len() > MAX_FILE_BYTES { Err(ErrorKind::FileTooLarge.into()) } else { fs::read(&path) }
        });
        self.parsed(setting, read.map_err(|error| format!("{}: {error}", path.display())))
    }

    pub(super) fn credential(&mut self, flags: &Flags) -> Option<Secret> {
        let named = flags.credential_file.is_some() || self.environment.contains_key(CREDENTIAL_FILE.variable);
        let text = if named {
            let bytes = self.file(&CREDENTIAL_FILE, flags.credential_file.as_ref())?;
            let text = String::from_utf8(bytes).map_err(|_| "holds no text".to_owned());
            self.parsed(&CREDENTIAL_FILE, text)?.trim().to_owned()
        } else {
            self.environment.get(CREDENTIAL.variable).or_else(|| self.environment.get(API_KEY))?.clone()
        };
        let setting = if named { &CREDENTIAL_FILE } else { &CREDENTIAL };
        let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let secret = if visible { Ok(Secret::new(text)) } else { Err("must be one line of visible ASCII".to_owned()) };
        self.parsed(setting, secret)
    }

    /// Keyspaces and routes of the replicas' own file.
    pub(super) fn gateway_config(&mut self, flags: &Flags) -> Option<GatewayConfig> {
        // The listeners of the file are not this process's.
        let flags = config::Flags { config: flags.config.clone(), insecure: true, ..config::Flags::default() };
        config::file(&flags, self.environment)?;
        match config::load(&flags, self.environment) {
            Ok(config) => Some(GatewayConfig::new(config.registry, config.http.environment)),
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    pub(super) fn tls(&mut self, flags: &Flags) -> Option<Tls> {
        let authority = self.file(&UPSTREAM_CA, flags.upstream_ca.as_ref());
        let certificate = self.file(&UPSTREAM_CERT, flags.upstream_cert.as_ref());
        let key = self.file(&UPSTREAM_KEY, flags.upstream_key.as_ref());
        if certificate.is_some() != key.is_some() {
            self.problem(&UPSTREAM_CERT, "and --upstream-key must be given together");
        }
        if authority.is_none() && certificate.is_none() {
            return None;
        }
        let tls = authority.map_or_else(Tls::native_roots, Tls::authority);
        Some(match certificate.zip(key) {
            None => tls,
            Some((certificate, key)) => tls.identity(certificate, key),
        })
    }
}

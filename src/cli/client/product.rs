//! The name under which the program runs. A link `norrix` to the binary is Norrix's own command line: its folder, its
//! variables, its addresses, and its name in every text.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

/// The program's own name.
const OWN_NAME: &str = "keyward";
/// Longest file with a product's addresses.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The product that the command line is of.
#[derive(Debug, Clone)]
pub struct Product {
    /// The name of the command.
    pub name: String,
    /// Folders that may hold a file with preset addresses, in the order of search.
    folders: Vec<PathBuf>,
}

impl Product {
    /// The product that `argv[0]` names. A name that is not valid for a command counts as the program's own.
    pub fn of(command: Option<&OsStr>) -> Self {
        let path = command.map(Path::new);
        let stem = path.and_then(Path::file_stem).and_then(OsStr::to_str).unwrap_or(OWN_NAME);
        let valid = (1..=32).contains(&stem.len())
            && stem.starts_with(|c: char| c.is_ascii_lowercase())
            && stem.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'));
        // `keyward-linux-amd64` is how a download may be named.
        let own = !valid || stem.split(['-', '_']).next() == Some(OWN_NAME);
        let mut folders = Vec::new();
        if let Some(path) = path {
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => Some(parent.to_owned()),
                _ => in_path(path),
            };
            folders.extend(folder);
        }
        folders.extend(std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)));
        folders.push(PathBuf::from("/etc"));
        Self { name: if own { OWN_NAME } else { stem }.to_owned(), folders }
    }

    /// Whether this is the program under its own name, which also has the commands of the server.
    pub fn is_own(&self) -> bool {
        self.name == OWN_NAME
    }

    /// The name with a capital letter, as at the beginning of a sentence.
    pub fn title(&self) -> String {
        let mut letters = self.name.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
    }

    /// The name of an environment variable: `NORRIX_API_KEY`.
    pub fn variable(&self, what: &str) -> String {
        format!("{}_{what}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The value of an environment variable. A variable that is set to the empty string counts as unset: pipelines pass
    /// missing secrets in that way.
    pub fn setting(&self, what: &str) -> Option<String> {
        std::env::var(self.variable(what)).ok().filter(|value| !value.is_empty())
    }

    /// The folder with the environments: `~/.norrix`.
    pub fn folder(&self) -> Option<PathBuf> {
        std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(format!(".{}", self.name)))
    }

    /// The preset address of an environment: `[env.prod] url = "…"` in `norrix.toml`, in the binary's folder or in
    /// `/etc`.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn ready_url(&self, environment: &str) -> Result<Option<String>, String> {
        if self.is_own() {
            return Ok(None);
        }
        for folder in &self.folders {
            let file = folder.join(format!("{}.toml", self.name));
            let Ok(facts) = std::fs::metadata(&file) else { continue };
            let problem = |what: &str| format!("{}: {what}", file.display());
            if facts.len() > MAX_FILE_BYTES {
                return Err(problem("is too long"));
            }
            let text = std::fs::read_to_string(&file).map_err(|error| problem(&error.to_string()))?;
            let document = DeTable::parse(&text).map_err(|error| problem(error.message()))?;
            let environments = find(document.get_ref(), "env").and_then(DeValue::as_table);
            let found = environments
                .and_then(|environments| find(environments, environment)?.as_table())
                .and_then(|found| find(found, "url")?.as_str().map(str::to_owned));
            return Ok(found);
        }
        Ok(None)
    }
}

fn find<'a, 'b>(table: &'a DeTable<'b>, name: &str) -> Option<&'a DeValue<'b>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref())
}

/// The folder of PATH that holds a command.
fn in_path(command: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join(command).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_command_is_the_product() {
        for (command, name) in [
            ("keyward", "keyward"),
            ("/usr/bin/keyward", "keyward"),
            ("keyward-linux-amd64", "keyward"),
            ("norrix", "norrix"),
            ("./bin/norrix.exe", "norrix"),
            ("noro-dev", "noro-dev"),
            ("Norrix", "keyward"),
            ("..", "keyward"),
            ("", "keyward"),
        ] {
            assert_eq!(Product::of(Some(OsStr::new(command))).name, name, "{command}");
        }
        let product = Product::of(Some(OsStr::new("noro-dev")));
        assert_eq!((product.variable("API_KEY").as_str(), product.title().as_str()), ("NORO_DEV_API_KEY", "Noro-dev"));
    }
}

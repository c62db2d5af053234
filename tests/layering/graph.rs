//! Which file of a crate imports which, and where that goes round in a circle.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
};

use crate::source::{NamedPath, Source, TestCode};

/// A module that has a file of its own, by its path from the crate's root.
pub type Module = Vec<String>;

/// The sources of one crate.
pub struct Files {
    texts: BTreeMap<Module, String>,
}

impl Files {
    /// Sources by the path of their file, such as `store/mod.rs`. The crate's root is left out: it only lists modules.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let texts = files.into_iter().map(|(file, text)| {
            let module = file.strip_suffix("/mod.rs").or(file.strip_suffix(".rs")).unwrap_or(file);
            (module.split('/').map(str::to_owned).collect(), text.to_owned())
        });
        Self { texts: texts.collect() }
    }

    /// Every source below a folder, but for the paths that `left_out` names.
    pub fn below(folder: &Path, left_out: &[&str]) -> Self {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).expect("a folder of sources") {
                let path = entry.expect("an entry").path();
                let file = path.strip_prefix(folder).expect("below the folder").to_string_lossy().into_owned();
                if left_out.contains(&file.as_str()) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    files.push((file, fs::read_to_string(&path).expect("a source")));
                }
            }
        }
        Self::new(files.iter().map(|(file, text)| (file.as_str(), text.as_str())))
    }

    /// Every module and its source.
    pub fn iter(&self) -> impl Iterator<Item = (&Module, &str)> {
        self.texts.iter().map(|(module, text)| (module, text.as_str()))
    }

    /// The modules whose files a source names.
    pub fn imports(&self, module: &Module, source: &Source) -> BTreeSet<Module> {
        let named = source.paths.iter().filter_map(|path| self.resolve(module, path));
        named.filter(|named| named != module).collect()
    }

    /// The file that defines what a path names: of all modules along it, the last one with a file of its own.
    fn resolve(&self, module: &Module, path: &NamedPath) -> Option<Module> {
        let mut at: Module = module.iter().chain(&path.inside).cloned().collect();
        let mut rest = path.segments.iter().peekable();
        match rest.peek()?.as_str() {
            "crate" => {
                at.clear();
                rest.next();
            }
            "self" => drop(rest.next()),
            "super" => {
                while rest.next_if(|segment| *segment == "super").is_some() {
                    at.pop();
                }
            }
            // A child of this module; any other name is that of a crate, or of something that a `use` has named.
            child => {
                at.push(child.to_owned());
                if !self.texts.contains_key(&at) {
                    return None;
                }
                at.pop();
            }
        }
        for segment in rest {
            at.push(segment.clone());
            if !self.texts.contains_key(&at) {
                at.pop();
                break;
            }
        }
        // An inline module has no file: what is in it is defined by the file around it.
        while !at.is_empty() && !self.texts.contains_key(&at) {
            at.pop();
        }
        (!at.is_empty()).then_some(at)
    }

    /// Every circle of imports, each as the files along it. `mod name;` is no import, and neither is anything in code for
    /// tests.
    pub fn circles(&self) -> Vec<String> {
        let sources: BTreeMap<_, _> =
            self.iter().map(|(module, text)| (module, Source::read(text, TestCode::IsLeftOut))).collect();
        let tests: Vec<Module> = sources
            .iter()
            .flat_map(|(module, source)| {
                source.test_modules.iter().map(|name| module.iter().chain([name]).cloned().collect())
            })
            .collect();
        let is_test = |module: &Module| tests.iter().any(|test| module.starts_with(test));
        let graph: BTreeMap<&Module, BTreeSet<Module>> = sources
            .iter()
            .filter(|(module, _)| !is_test(module))
            .map(|(module, source)| (*module, self.imports(module, source)))
            .collect();
        let mut found = BTreeMap::new();
        for module in graph.keys() {
            if let Some(circle) = shortest_circle(&graph, module) {
                let members: BTreeSet<_> = circle.iter().cloned().collect();
                found.entry(members).or_insert(circle);
            }
        }
        found.into_values().map(|circle| shown(&circle)).collect()
    }
}

/// The shortest way from a module back to itself.
fn shortest_circle(graph: &BTreeMap<&Module, BTreeSet<Module>>, start: &Module) -> Option<Vec<Module>> {
    let mut came_from: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(module) = next.pop_front() {
        for imported in graph.get(module).into_iter().flatten() {
            if imported == start {
                let mut circle = vec![start.clone()];
                let mut at = module;
                while at != start {
                    circle.insert(1, at.clone());
                    at = came_from[at];
                }
                return Some(circle);
            }
            if !came_from.contains_key(imported) {
                came_from.insert(imported, module);
                next.push_back(imported);
            }
        }
    }
    None
}

fn shown(circle: &[Module]) -> String {
    let names: Vec<_> = circle.iter().chain(circle.first()).map(|module| module.join("::")).collect();
    names.join(" -> ")
}

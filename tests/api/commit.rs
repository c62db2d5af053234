//! The commit in `--version`: known in a clone and a worktree, and unknown in unpacked sources, without a build each time.

use std::{path::Path, process::Command};

#[path = "../../src/checkout.rs"]
mod checkout;

fn git(folder: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"];
    let output = Command::new("git").arg("-C").arg(folder).args(identity).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn the_commit_of_every_kind_of_source_is_found_by_files_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let [clone, worktree, bare] = ["clone", "worktree", "bare"].map(|name| folder.path().join(name));
    std::fs::create_dir(&clone).unwrap();
    std::fs::create_dir(&bare).unwrap();
    git(&clone, &["init", "-q"]);
    assert!(checkout::of(&clone).is_none(), "there is no commit yet");
    git(&clone, &["commit", "-q", "--allow-empty", "-m", "one"]);
    git(&clone, &["worktree", "add", "-q", worktree.to_str().unwrap()]);
    git(&worktree, &["commit", "-q", "--allow-empty", "-m", "two"]);
    let known = |folder: &Path| checkout::of(folder).map(|checkout| (checkout.commit, checkout.log));
    let (first, first_log) = known(&clone).unwrap();
    let (second, second_log) = known(&worktree).unwrap();
    assert!(first != second && first.len() == 12, "{first} {second}");
    let (first_log, second_log) = (first_log.unwrap(), second_log.unwrap());
    assert!(first_log.is_file() && second_log.is_file() && first_log != second_log, "{first_log:?} {second_log:?}");
    // Each commit changes the file.
    let before = std::fs::read(&second_log).unwrap();
    git(&worktree, &["commit", "-q", "--allow-empty", "-m", "three"]);
    assert_ne!(std::fs::read(&second_log).unwrap(), before);
    // Sources from an archive, alone or inside of another repository.
    let inside = clone.join("vendor/keyward");
    std::fs::create_dir_all(&inside).unwrap();
    assert!(known(&inside).is_none());
    if known(folder.path()).is_none() {
        assert!(known(&bare).is_none());
    }
    // A clone without a log of HEAD.
    std::fs::remove_file(&first_log).unwrap();
    assert_eq!(known(&clone), Some((first, None)));
}

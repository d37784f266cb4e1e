//! The rules of doc/ARCHITECTURE.md that a reader of the sources can check.
//!
//! Each rule is a function from sources to what breaks it, so that a made-up
//! source which breaks it shows that it would be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates, and those of ours that each may use (doc/ARCHITECTURE.md#who-may-import-whom).
const IMPORTS: [(&str, &[&str]); 6] = [
    ("spool", &[]),
    ("keygen", &["spool"]),
    ("service", &["spool"]),
    ("daemon", &["spool"]),
    ("loop", &["keygen", "spool"]),
    ("job", &["keygen", "spool"]),
];
/// Whatever changes files otherwise than by the verbs of `Fs`.
const CHANGES: [&str; 20] = [
    "fs::write(",
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::set_permissions(",
    "fs::copy(",
    "fs::hard_link(",
    "File::create",
    ".create(true)",
    ".create_new(",
    ".append(true)",
    "OFlags::CREATE",
    "unlinkat(",
    "renameat",
    "mkdirat(",
    "linkat(",
    "ftruncate(",
    "chmodat(",
    "UnixListener::bind(",
    "rustix::net::bind(",
];
/// The only file that may.
const ATOMIC: &str = "spool/atomic.rs";
/// Its parts.
const ATOMIC_PARTS: [&str; 3] = ["spool/atomic_log.rs", "spool/atomic_mode.rs", "spool/atomic_remove.rs"];
/// Changes no spool: it keeps what its daemons say beside their homes.
const DEMO: &str = "netplumb/demo.rs";
/// A file that grows past this is usually two.
const LINES: usize = 450;

/// Sources by their path in the repository.
type Sources = BTreeMap<String, String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below the root with one of these extensions, without what a build makes.
fn files(extensions: &[&str]) -> Sources {
    let ours = |entry: &walkdir::DirEntry| !["target", ".git"].iter().any(|name| entry.file_name() == *name);
    let mut sources = Sources::new();
    for entry in walkdir::WalkDir::new(root()).into_iter().filter_entry(ours).flatten() {
        let extension = entry.path().extension().and_then(|text| text.to_str()).unwrap_or_default();
        if entry.file_type().is_file() && extensions.contains(&extension) {
            let path = entry.path().strip_prefix(root()).expect("below").display().to_string();
            sources.insert(path, std::fs::read_to_string(entry.path()).expect("text"));
        }
    }
    sources
}

/// Is this a file of tests by its name?
fn is_test(path: &str) -> bool {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    folder.split('/').any(|part| ["tests", "benches"].contains(&part)) || file.contains("test")
}

/// Files that a test declares as its modules, or that are modules of tests only.
fn modules_of_tests(path: &str, text: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let from = if is_test(path) { Some(0) } else { text.find("#[cfg(test)]\n") };
    let lines: Vec<&str> = from.map_or(Vec::new(), |at| text[at..].lines().map(str::trim).collect());
    let module = |line: &&str| {
        line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';').map(str::to_string)
    };
    let file = |name: String| folder.join(format!("{name}.rs")).display().to_string();
    let after_mark =
        lines.iter().zip(lines.iter().skip(1)).filter(|(mark, _)| is_test(path) || **mark == "#[cfg(test)]");
    after_mark.filter_map(|(_, line)| module(line)).map(file).collect()
}

/// The sources of the product: without tests, benches, and what only tests use.
fn product(all: &Sources) -> Sources {
    let for_tests: BTreeSet<String> = all.iter().flat_map(|(path, text)| modules_of_tests(path, text)).collect();
    let of_product = all.iter().filter(|(path, _)| !is_test(path) && !for_tests.contains(*path));
    of_product.map(|(path, text)| (path.clone(), text[..tests_within(text)].to_string())).collect()
}

/// Where the tests within a file begin.
fn tests_within(text: &str) -> usize {
    let inline =
        |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.contains("mod ") && line.ends_with('{'));
    text.match_indices("#[cfg(test)]\n").map(|(at, _)| at).find(inline).unwrap_or(text.len())
}

/// Code without its comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

fn forbidden_imports(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (name, allowed) in IMPORTS {
        let others = IMPORTS.iter().map(|(other, _)| *other).filter(|other| *other != name && !allowed.contains(other));
        for other in others {
            let used = [format!("{other}::"), format!("r#{other}::"), format!("{other}.workspace")];
            for (path, text) in sources.iter().filter(|(path, _)| path.starts_with(&format!("{name}/"))) {
                let uses = |line: &str| {
                    used.iter().any(|word| {
                        line.match_indices(word.as_str()).any(|(at, _)| {
                            !line[..at].ends_with(|before: char| before.is_alphanumeric() || "_:#".contains(before))
                        })
                    })
                };
                // A folder's own module may have the name of a crate.
                let own_module =
                    text.contains(&format!("mod {other};")) || text.contains(&format!("use crate::{other}"));
                if !own_module && code(text).any(uses) {
                    found.push(format!("{path} uses {other}"));
                }
            }
        }
    }
    found
}

fn changes_outside(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    let may = |path: &str| path == ATOMIC || path == DEMO || ATOMIC_PARTS.contains(&path);
    let others = sources.iter().filter(|(path, _)| !may(path));
    for (path, text) in others.filter(|(path, _)| path.ends_with(".rs")) {
        for line in code(text) {
            found.extend(CHANGES.iter().filter(|word| line.contains(**word)).map(|word| format!("{path}: {word}")));
        }
    }
    found
}

/// The anchor of a heading, as the usual viewers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(|c: char| !(c.is_alphanumeric() || " -_".contains(c)), "");
    kept.replace(' ', "-")
}

/// What is cited as `doc/PAGE.md#section` and is not there.
fn dead_citations(sources: &Sources) -> Vec<String> {
    let anchors = |page: &str| -> Option<BTreeSet<String>> {
        let headings = sources.get(page)?.lines().filter(|line| line.starts_with('#'));
        Some(headings.map(|line| anchor(line.trim_start_matches('#'))).collect())
    };
    let mut found = Vec::new();
    for (path, text) in sources {
        for (at, _) in text.match_indices("doc/") {
            let cited: String =
                text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "/._-#".contains(*c)).collect();
            let cited = cited.trim_end_matches(['.', '-', '#']);
            let (page, section) = cited.split_once('#').unwrap_or((cited, ""));
            let there = match page.ends_with(".md") {
                true => anchors(page).is_some_and(|anchors| section.is_empty() || anchors.contains(section)),
                false => true,
            };
            if !there && !path.starts_with("tests/tidy") {
                found.push(format!("{path} cites {cited}"));
            }
        }
    }
    found
}

fn long_files(sources: &Sources) -> Vec<String> {
    let long = sources.iter().filter(|(path, text)| path.ends_with(".rs") && text.lines().count() > LINES);
    long.map(|(path, text)| format!("{path} has {} lines", text.lines().count())).collect()
}

/// Who listens on the network, and names a file of a private key.
fn private_in_service(sources: &Sources) -> Vec<String> {
    let listens = |path: &&String| path.starts_with("service/");
    let names = ["private", "sign.pem", "derive.pem", "root.pem", "spool_key"];
    let of_service = sources.iter().filter(|(path, _)| listens(path));
    let hits = of_service.filter(|(_, text)| code(text).any(|line| names.iter().any(|name| line.contains(name))));
    hits.map(|(path, _)| path.clone()).collect()
}

/// Whatever ends a process otherwise than by `job::run_and_exit` and `job::exit_now`.
fn other_ends(sources: &Sources) -> Vec<String> {
    let ends = ["process::exit(", "process::abort(", "ExitCode", "libc::_exit(", "libc::exit("];
    let mut found = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| *path != "job/sys.rs" && path.ends_with(".rs")) {
        let used = ends.iter().filter(|end| code(text).any(|line| line.contains(**end)));
        found.extend(used.map(|end| format!("{path}: {end}")));
        let is_program = code(text).any(|line| line.starts_with("fn main()"));
        if is_program && !text.contains("job::run_and_exit(") {
            found.push(format!("{path} returns from main"));
        }
    }
    found
}

/// Dependencies of the workspace that no comment above gives a reason for.
fn dependencies_without_reason(manifest: &str) -> Vec<String> {
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let lines = table.lines().skip(1).take_while(|line| !line.starts_with('['));
    let (mut reasoned, mut found) = (false, Vec::new());
    for line in lines {
        match line.split_once('=') {
            _ if line.starts_with('#') => reasoned = true,
            Some((name, _)) if !reasoned && !line.starts_with(' ') => found.push(name.trim().to_string()),
            _ if line.is_empty() => reasoned = false,
            _ => {}
        }
    }
    found
}

/// Sources of our own making.
fn made_up(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

fn nothing(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn siblings_do_not_call_each_other() {
    nothing("forbidden imports", forbidden_imports(&product(&files(&["rs", "toml"]))));
    let wrong = made_up(&[
        ("service/a.rs", "use keygen::identity;"),
        ("daemon/Cargo.toml", "keygen.workspace = true"),
        ("spool/b.rs", "fn f() { r#loop::state::next() }"),
        ("job/c.rs", "use spool::name; // as loop:: does"),
    ]);
    assert_eq!(forbidden_imports(&wrong).len(), 3, "{:?}", forbidden_imports(&wrong));
}

#[test]
fn only_atomic_changes_files() {
    let product = product(&files(&["rs"]));
    assert!(product[ATOMIC].contains("unlinkat("), "control: it is seen where it is allowed");
    nothing("changes outside of spool/atomic.rs", changes_outside(&product));
    let wrong = made_up(&[("job/a.rs", "std::fs::rename(a, b)?;"), ("job/b.rs", "fs.rename(a, b)?; // fs::rename(")]);
    assert_eq!(changes_outside(&wrong).len(), 1);
}

#[test]
fn every_citation_leads_somewhere() {
    let all = files(&["rs", "md", "toml"]);
    assert!(all.values().any(|text| text.contains("doc/PROTOCOL.md#")), "control: there are citations");
    nothing("citations", dead_citations(&all));
    let page = ("doc/PAGE.md", "# Page\n## A section, with words\n");
    let wrong = made_up(&[page, ("a.rs", "// doc/PAGE.md#a-section-with-words doc/PAGE.md#none, doc/NONE.md.")]);
    assert_eq!(dead_citations(&wrong).len(), 2, "{:?}", dead_citations(&wrong));
}

#[test]
fn files_are_as_long_as_one_sitting() {
    nothing("long files", long_files(&product(&files(&["rs"]))));
    assert_eq!(long_files(&made_up(&[("a.rs", &"\n".repeat(LINES + 1)), ("b.rs", &"\n".repeat(LINES))])).len(), 1);
}

#[test]
fn whoever_listens_knows_no_private_key() {
    nothing("private keys in the service", private_in_service(&product(&files(&["rs"]))));
    assert_eq!(private_in_service(&made_up(&[("service/a.rs", "home.config.join(\"private/x\")")])).len(), 1);
}

#[test]
fn processes_end_in_one_way() {
    nothing("other ends of a process", other_ends(&product(&files(&["rs"]))));
    let wrong = made_up(&[
        ("plumb/main.rs", "fn main() {\n    run();\n}"),
        ("netplumb/a.rs", "std::process::exit(1); // ExitCode"),
        ("job/sys.rs", "libc::_exit(status)"),
    ]);
    assert_eq!(other_ends(&wrong).len(), 2, "{:?}", other_ends(&wrong));
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("[workspace.dependencies]"));
    nothing("dependencies without a reason", dependencies_without_reason(&manifest));
    assert_eq!(dependencies_without_reason("[workspace.dependencies]\n# why\na = 1\n\nb = 2\n[x]\nc = 3\n"), ["b"]);
}

/// A test that the documents name as a check of a promise exists.
#[test]
fn tests_named_in_the_architecture_exist() {
    let text = std::fs::read_to_string(root().join("doc/ARCHITECTURE.md")).unwrap();
    let list = text.split("## Invariants").nth(1).expect("the list of invariants");
    let paths: Vec<PathBuf> =
        list.split('`').filter(|word| word.ends_with(".rs")).map(|word| root().join(word)).collect();
    assert!(!paths.is_empty(), "control: the list names files");
    paths.iter().for_each(|path| assert!(path.exists(), "{} is named and not there", path.display()));
}

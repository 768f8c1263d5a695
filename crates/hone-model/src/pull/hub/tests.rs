//! The real client against a hub on this machine: a thread that answers as the hub does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use serde_json::json;

use super::*;

/// Serves `files` of one repository until the process ends; returns its address.
fn serve(repository: &'static str, files: HashMap<&'static str, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = String::new();
            let mut range = None;
            for line in BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                range = range.or(line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                request = if request.is_empty() { line } else { request };
            }
            let path = request.split(' ').nth(1).unwrap_or_default();
            let resolved = path.strip_prefix(&format!("/{repository}/resolve/main/"));
            let answer = if path == format!("/api/models/{repository}/revision/main") {
                let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
                ok(json!({"siblings": siblings, "sha": "c0ffee"}).to_string().as_bytes(), "x", None)
            } else if let Some((name, bytes)) = resolved.and_then(|name| files.get_key_value(name)) {
                let etag = if name.ends_with("safetensors") {
                    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
                } else {
                    format!("etag-{}", name.replace('/', "-"))
                };
                // What `damaged` serves is not what its hash says.
                let served = if repository.ends_with("damaged") { vec![0; bytes.len()] } else { bytes.clone() };
                ok(&served, &etag, range.as_deref())
            } else {
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
            };
            let _ = stream.write_all(&answer);
        }
    });
    address
}

fn ok(bytes: &[u8], etag: &str, range: Option<&str>) -> Vec<u8> {
    let (from, to) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().expect("a number");
    let to = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
    let part = &bytes[from..to];
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nETag: \"{etag}\"\r\n\
         X-Repo-Commit: c0ffee\r\nConnection: close\r\n\r\n",
        part.len(),
        to.saturating_sub(1),
        bytes.len()
    );
    [head.as_bytes(), part].concat()
}

fn api(address: &str, cache: &Path) -> Api {
    let builder = ApiBuilder::from_cache(Cache::new(cache.to_owned())).with_endpoint(address.to_owned());
    builder.with_progress(false).build().expect("builds")
}

fn model(more: &[(&'static str, &[u8])]) -> HashMap<&'static str, Vec<u8>> {
    let always = [("config.json", &b"{}"[..]), ("tokenizer.json", b"{}"), ("README.md", b"not wanted")];
    always.iter().chain(more).map(|(name, bytes)| (*name, bytes.to_vec())).collect()
}

#[test]
fn a_repository_is_fetched_whole_and_found_again() {
    let index = json!({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).to_string();
    let files = model(&[
        (INDEX, index.as_bytes()),
        ("one.safetensors", b"first shard"),
        ("two.safetensors", b"second"),
        ("chat_template.jinja", b"{{ messages }}"),
    ]);
    let address = serve("maker/sharded", files);
    let cache = tempfile::tempdir().expect("a temporary directory");
    let mut seen = Vec::new();
    let api = api(&address, cache.path());
    let path = fetch_with(&api, "maker/sharded", &mut |progress| seen.push(progress.clone())).expect("fetched");
    for (name, content) in [("one.safetensors", "first shard"), ("two.safetensors", "second"), ("config.json", "{}")] {
        assert_eq!(std::fs::read_to_string(path.join(name)).expect("there"), content);
    }
    assert!(path.join("chat_template.jinja").is_file() && !path.join("README.md").exists());
    assert!(seen.contains(&Progress { what: "one.safetensors".into(), bytes: 11, total: Some(11) }));
    assert_eq!(find_in(&Cache::new(cache.path().to_owned()), "maker/sharded").as_ref(), Some(&path));

    std::fs::remove_file(path.join("two.safetensors")).expect("removed");
    assert_eq!(find_in(&Cache::new(cache.path().to_owned()), "maker/sharded"), None, "a shard is missing");
}

#[test]
fn what_is_wrong_with_a_repository_is_said() {
    let refused = |repository: &'static str, files: HashMap<&'static str, Vec<u8>>| {
        let address = serve(repository, files);
        let cache = tempfile::tempdir().expect("a temporary directory");
        fetch_with(&api(&address, cache.path()), repository, &mut |_| {}).expect_err("must be refused")
    };
    let pickled = refused("maker/pickled", model(&[("pytorch_model.bin", b"x")]));
    assert!(pickled.contains("no safetensors"), "{pickled}");
    let gguf = refused("maker/gguf", HashMap::from([("model-q4.gguf", vec![1])]));
    assert!(gguf.contains("model-q4.gguf") && gguf.contains("give its path"), "{gguf}");
    let damaged = refused("maker/damaged", model(&[("model.safetensors", b"whole")]));
    assert!(damaged.contains("model.safetensors: SHA-256"), "{damaged}");
    let outside = json!({"weight_map": {"a": "../../one.safetensors"}}).to_string();
    let outside = refused("maker/outside", model(&[(INDEX, outside.as_bytes())]));
    assert!(outside.contains("outside the repository"), "{outside}");
    let cache = tempfile::tempdir().expect("a temporary directory");
    let address = serve("maker/there", model(&[]));
    let absent = fetch_with(&api(&address, cache.path()), "maker/absent", &mut |_| {}).expect_err("not there");
    assert!(absent.contains("no such repository"), "{absent}");
}

#[test]
fn a_hub_out_of_reach_is_given_up_soon() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    // A port nobody listens at, and an address that is reserved for documentation: nothing ever answers there.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    for address in [format!("http://{free}"), "http://192.0.2.1".to_owned()] {
        let start = std::time::Instant::now();
        let cause = fetch_with(&api(&address, cache.path()), "maker/model", &mut |_| {}).expect_err("out of reach");
        assert!(cause.contains("out of reach"), "{cause}");
        assert!(start.elapsed() < 2 * CONNECT, "{:?}", start.elapsed());
    }
}

#[test]
fn repositories_are_told_from_paths() {
    assert_eq!(repository("HuggingFaceTB/SmolLM2-135M"), Some("HuggingFaceTB/SmolLM2-135M"));
    for path in ["./model", "/model", "a/b/c", "../x", "a/", "name", "a/b c", "~/models"] {
        assert_eq!(repository(path), None, "{path}");
    }
}

#[test]
fn a_data_set_is_found_by_its_revision() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().to_owned());
    let set = directory.path().join("datasets--maker--questions");
    std::fs::create_dir_all(set.join("refs")).unwrap();
    for commit in ["aaa", "bbb"] {
        std::fs::create_dir_all(set.join("snapshots").join(commit)).unwrap();
    }
    std::fs::write(set.join("refs/main"), "bbb").unwrap();
    let find = |name: &str, revision: Option<&str>| find_data_set_in(&cache, name, revision);
    assert_eq!(find("maker/questions", None), Some(set.join("snapshots/bbb")));
    assert_eq!(find("maker/questions", Some("aaa")), Some(set.join("snapshots/aaa")));
    assert_eq!(find("maker/questions", Some("v1")), None);
    assert_eq!(find("maker/others", None), None);
    assert_eq!(crate::pull::cached_data_set("../maker", None), None, "a path is no name");
}

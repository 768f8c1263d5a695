//! The hub, through `hf-hub` and its cache, which other programs share. `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` count as
//! they do there.
//!
//! A hub that does not answer must not keep a user waiting who has other ways to the model: the host is tried for a few
//! seconds before anything is asked of it (not behind a proxy, where only the proxy can tell).

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};
use sha2::{Digest, Sha256};

use super::{CachedModel, Progress, size_of};
use crate::files::read_json;

const CONNECT: Duration = Duration::from_secs(4);
const ANSWER: Duration = Duration::from_secs(20);
const INDEX: &str = "model.safetensors.index.json";
/// Files fetched wherever a repository has them, beside the weights.
const BESIDE: [&str; 7] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "tokenizer.json",
];

/// The reference as a repository, if it can be one: `organisation/repository`.
pub(super) fn repository(reference: &str) -> Option<&str> {
    let (organisation, name) = reference.split_once('/')?;
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (plain(organisation) && plain(name)).then_some(reference)
}

/// A repository's model in the cache, if it is whole.
pub(super) fn find(repository: &str) -> Option<PathBuf> {
    find_in(&Cache::from_env(), repository)
}

fn find_in(cache: &Cache, repository: &str) -> Option<PathBuf> {
    let repo = cache.repo(Repo::model(repository.to_owned()));
    let directory = repo.get("config.json")?.parent()?.to_owned();
    whole(&directory).then_some(directory)
}

/// The snapshot of a data set in the cache, of its `revision` (`main` where none is named): the directory, whatever files of it
/// are there.
pub(super) fn find_data_set(name: &str, revision: Option<&str>) -> Option<PathBuf> {
    find_data_set_in(&Cache::from_env(), name, revision)
}

fn find_data_set_in(cache: &Cache, name: &str, revision: Option<&str>) -> Option<PathBuf> {
    let repo = Repo::with_revision(name.into(), hf_hub::RepoType::Dataset, revision.unwrap_or("main").into());
    let directory = cache.path().join(repo.folder_name());
    // A revision is a name that points to a commit, or the commit.
    let named = std::fs::read_to_string(directory.join("refs").join(repo.revision())).ok();
    let commit = named.as_deref().map_or(repo.revision(), str::trim);
    Some(directory.join("snapshots").join(commit)).filter(|snapshot| snapshot.is_dir())
}

/// Whether a snapshot has a config, a tokenizer and all weights.
fn whole(directory: &Path) -> bool {
    let there = |name: &str| directory.join(name).is_file();
    let weights = match read_json(&directory.join(INDEX)) {
        Ok(Some(index)) => shards(&index).is_ok_and(|shards| shards.iter().all(|shard| there(shard))),
        _ => there("model.safetensors"),
    };
    weights && there("config.json") && there("tokenizer.json")
}

/// The models of the hub's cache that are whole.
pub(super) fn cached() -> Vec<CachedModel> {
    let cache = Cache::from_env();
    let Ok(entries) = std::fs::read_dir(cache.path()) else { return Vec::new() };
    let repositories = entries.filter_map(Result::ok).filter_map(|entry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        let name = file.strip_prefix("models--")?.replacen("--", "/", 1);
        let path = find_in(&cache, &name)?;
        Some(CachedModel { bytes: size_of(&path), name, path })
    });
    repositories.collect()
}

/// Fetches a repository; what cannot be had is told in words.
pub(super) fn fetch(repository: &str, progress: &mut dyn FnMut(&Progress)) -> Result<PathBuf, String> {
    let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(1);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    progress(&Progress { what: format!("asking the hub for {repository}"), bytes: 0, total: None });
    let api = builder.build().map_err(|e| explain(&e))?;
    fetch_with(&api, repository, progress)
}

fn fetch_with(api: &Api, repository: &str, progress: &mut dyn FnMut(&Progress)) -> Result<PathBuf, String> {
    let repo = api.model(repository.to_owned());
    reach(&repo.url(""))?;
    let listed = {
        let repo = api.model(repository.to_owned());
        within(ANSWER, move || repo.info()).ok_or_else(|| format!("no answer in {} seconds", ANSWER.as_secs()))?
    };
    let listed = listed.map_err(|e| explain(&e))?;
    let files: Vec<String> = listed.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let has = |name: &str| files.iter().any(|file| file == name);
    let mut get = |name: &str| get_file(&repo, name, progress);

    if !has("config.json") {
        return Err(without_config(repository, &files));
    }
    let config = get("config.json")?;
    if !has("tokenizer.json") {
        return Err("the repository has no tokenizer.json; write one with transformers first".to_owned());
    }
    for name in BESIDE.into_iter().filter(|name| has(name)) {
        get(name)?;
    }
    if has(INDEX) {
        let index = get(INDEX)?;
        let index = read_json(&index).map_err(|e| e.to_string())?.ok_or("the index of shards is gone")?;
        for shard in shards(&index)? {
            get(&shard)?;
        }
    } else if has("model.safetensors") {
        get("model.safetensors")?;
    } else {
        return Err("the repository has no safetensors; convert its weights first".to_owned());
    }
    config.parent().map(Path::to_owned).ok_or_else(|| "a file without a directory".to_owned())
}

/// What to say of a repository that is no model directory.
fn without_config(repository: &str, files: &[String]) -> String {
    let gguf: Vec<&str> = files.iter().map(String::as_str).filter(|file| file.ends_with(".gguf")).collect();
    if gguf.is_empty() {
        return "the repository has no config.json: it is no model".to_owned();
    }
    format!("the repository `{repository}` has GGUF files ({}): download one and give its path", gguf.join(", "))
}

/// The files an index names, each once.
fn shards(index: &serde_json::Value) -> Result<Vec<String>, String> {
    let map = index["weight_map"].as_object().ok_or("the index of shards has no weight_map")?;
    let mut shards: Vec<String> = map.values().filter_map(|file| file.as_str().map(str::to_owned)).collect();
    shards.sort();
    shards.dedup();
    if shards.iter().any(|shard| shard.contains("..") || shard.starts_with('/')) {
        return Err("the index of shards names files outside the repository".to_owned());
    }
    Ok(shards)
}

fn get_file(repo: &ApiRepo, name: &str, progress: &mut dyn FnMut(&Progress)) -> Result<PathBuf, String> {
    let meter = Meter { progress, state: Progress { what: name.to_owned(), bytes: 0, total: None } };
    let path = repo.download_with_progress(name, meter).map_err(|e| format!("{name}: {}", explain(&e)))?;
    // Large files are kept under their SHA-256: a download that broke off is found out here.
    let blob = std::fs::canonicalize(&path).map_err(|e| format!("{name}: {e}"))?;
    let expected = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if expected.len() == 64 {
        let mut hash = Sha256::new();
        let mut file = std::fs::File::open(&blob).map_err(|e| format!("{name}: {e}"))?;
        std::io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(|e| format!("{name}: {e}"))?;
        let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found != expected {
            for damaged in [&path, &blob] {
                // If it cannot be removed, the next attempt finds it again and says so again.
                let _ = std::fs::remove_file(damaged);
            }
            return Err(format!("{name}: SHA-256 {found}, expected {expected}; try again"));
        }
    }
    Ok(path)
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Meter<'a> {
    progress: &'a mut dyn FnMut(&Progress),
    state: Progress,
}

impl hf_hub::api::Progress for Meter<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.state.total = Some(size as u64);
        self.state.bytes = 0;
        (self.progress)(&self.state);
    }
    fn update(&mut self, size: usize) {
        self.state.bytes += size as u64;
        (self.progress)(&self.state);
    }
    fn finish(&mut self) {}
}

/// Whether the host of `url` takes connections.
fn reach(url: &str) -> Result<(), String> {
    let proxies = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
    if proxies.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return Ok(());
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("`{url}` is no address"))?;
    let host = rest.split('/').next().unwrap_or(rest);
    let address = match host.rsplit_once(':') {
        Some((_, port)) if port.chars().all(|c| c.is_ascii_digit()) => host.to_owned(),
        _ => format!("{host}:{}", if scheme == "http" { 80 } else { 443 }),
    };
    let connect = move || -> Result<(), String> {
        let mut last = "its name leads to no address".to_owned();
        for address in address.to_socket_addrs().map_err(|e| e.to_string())? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(_) => return Ok(()),
                Err(e) => last = e.to_string(),
            }
        }
        Err(last)
    };
    let outcome =
        within(CONNECT, connect).unwrap_or_else(|| Err(format!("no connection in {} seconds", CONNECT.as_secs())));
    outcome.map_err(|cause| format!("{host} is out of reach: {cause}"))
}

/// What `work` returns, unless it takes longer than `limit`; it is then left to end by itself.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(limit).ok()
}

/// An error of `hf-hub` in words that say what to do.
fn explain(error: &ApiError) -> String {
    let text = error.to_string();
    let status = text.split("status code ").nth(1).and_then(|rest| rest.get(..3));
    match status {
        Some("401" | "403") => {
            "the repository does not exist or is closed: accept its terms on the hub and set HF_TOKEN".to_owned()
        }
        Some("404") => "there is no such repository or file".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests;

//! Images in registries, fetched into an OCI layout (OCI distribution specification 1.1, "Pull"; the distribution
//! project's "Token Authentication").

use super::oci::{DEPTH_MAX, DOCUMENT_MAX, Descriptor, ImageManifest, Index, blob, is_image, is_index};
use anyhow::{Context as _, Result, bail, ensure};
use kaltstart_protocol::ids::Digest;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode, Url};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What sources in registries begin with.
const SCHEME: &str = "oci://";
/// Whom this system believes, as Debian keeps them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Longest without a byte.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Most redirections on the way to a blob.
const REDIRECTS_MAX: usize = 5;
/// Most bytes of all layers: what a registry may make us store.
const LAYERS_MAX: u64 = 64 << 30;
/// What is asked for: one image, or one for each kind of machine.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// An image in a registry: `oci://HOST/REPOSITORY:TAG`, or `@sha256:…` in place of the tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    host: String,
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// What `source` names; none when it is no registry's.
    pub(super) fn parse(source: &str) -> Option<Result<Self>> {
        let named = source.strip_prefix(SCHEME)?;
        let understood = Self::of(named);
        Some(understood.with_context(|| format!("{SCHEME}HOST/REPOSITORY:TAG or …@sha256:… is expected")))
    }

    fn of(text: &str) -> Result<Self> {
        let (host, rest) = text.split_once('/').context("it has no repository")?;
        let (repository, version) = match (rest.split_once('@'), rest.rsplit_once(':')) {
            (Some((repository, digest)), _) => (repository, Version::Digest(digest.parse()?)),
            (None, Some((repository, tag))) => (repository, Version::Tag(tag.to_owned())),
            (None, None) => bail!("it has no tag"),
        };
        let of = |also: &'static str| move |c: char| c.is_ascii_alphanumeric() || also.contains(c);
        ensure!(!host.is_empty() && host.chars().all(of(".-:[]")), "{host:?} is no host");
        let is_part = |part: &str| part.starts_with(of("")) && part.chars().all(of("._-"));
        ensure!(repository.split('/').all(is_part), "{repository:?} is no repository");
        if let Version::Tag(tag) = &version {
            ensure!(
                tag.starts_with(of("_")) && tag.chars().all(of("._-")) && tag.len() <= 128,
                "{tag:?} is no tag"
            );
        }
        Ok(Self { host: host.into(), repository: repository.into(), version })
    }
}

/// What a user says about registries.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Access {
    /// File with the credentials of registries, as `docker login` and `skopeo login` write it; without, none are used
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Certificates of the authority that vouches for the registry, instead of the system's
    #[arg(long, value_name = "FILE")]
    registry_ca: Option<PathBuf>,
}

/// The file with credentials, of which nothing else is of use here.
#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// Name and password in base64, as HTTP wants them (RFC 7617).
    auth: Option<String>,
}

impl Access {
    /// The header with the credentials for `host`, if there is a file.
    fn basic(&self, host: &str) -> Result<Option<HeaderValue>> {
        let Some(path) = &self.auth_file else { return Ok(None) };
        let named = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(named)?;
        // Its error would show what stands there.
        let file: AuthFile = serde_json::from_str(&text)
            .ok()
            .with_context(|| format!("{} has no `auths`, as docker and skopeo write them", path.display()))?;
        let entry = file.auths.get(host).and_then(|entry| entry.auth.as_deref());
        let entry = entry.with_context(|| format!("{} has no credentials for {host}", path.display()))?;
        secret("Basic", entry).map(Some)
    }

    /// How connections are made: to those for whom an authority vouches.
    fn client(&self) -> Result<Client> {
        let path = self.registry_ca.as_deref().unwrap_or(Path::new(AUTHORITIES));
        let read = || -> Result<RootCertStore> {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path)? {
                roots.add(certificate?)?;
            }
            ensure!(!roots.is_empty(), "there is none");
            Ok(roots)
        };
        let roots = read().with_context(|| format!("cannot use the authorities in {}", path.display()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(config)
            .connect_timeout(SILENCE_MAX)
            .read_timeout(SILENCE_MAX)
            .redirect(Policy::custom(redirected));
        Ok(client.build()?)
    }
}

fn redirected(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("too many redirections")
    } else if is_private(attempt.url()) {
        // The client sends the credentials no further than to where they are for.
        attempt.follow()
    } else {
        attempt.error("a redirection to where everybody can read along")
    }
}

/// Whether nobody reads along: by TLS, or on this machine.
fn is_private(url: &Url) -> bool {
    url.scheme() == "https" || url.host_str().is_some_and(|host| is_here(host) && url.scheme() == "http")
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::Ipv4Addr| address.is_loopback())
}

fn secret(kind: &str, value: &str) -> Result<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("{kind} {value}"))
        .ok()
        .with_context(|| format!("credentials ({kind}) have characters that no header can have"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Fetches the image, for this product's machines, into the empty directory `to`, as a layout.
///
/// # Errors
/// When the registry cannot be reached or refuses, has no such image, or sends what its digest does not say.
pub(super) fn fetch(reference: &Reference, access: &Access, to: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        fs::create_dir_all(to.join("blobs/sha256"))?;
        let mut registry = Registry::new(reference, access)?;
        let root = registry.root(&reference.version, to).await?;
        registry.complete(&root, to, DEPTH_MAX).await?;
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [root]});
        fs::write(to.join("index.json"), index.to_string())?;
        fs::write(to.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
        Ok(())
    })
}

/// A repository, and the right to read it.
struct Registry {
    client: Client,
    base: String,
    repository: String,
    /// For whoever gives tokens, or for the registry itself.
    basic: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
    /// What may still be stored.
    left: u64,
}

impl Registry {
    fn new(reference: &Reference, access: &Access) -> Result<Self> {
        let Reference { host, repository, .. } = reference;
        let here = is_here(host.split(':').next().unwrap_or_default());
        let scheme = if here && access.registry_ca.is_none() { "http" } else { "https" };
        Ok(Self {
            client: access.client()?,
            base: format!("{scheme}://{host}/v2/{repository}"),
            repository: repository.clone(),
            basic: access.basic(host)?,
            authorization: None,
            left: LAYERS_MAX,
        })
    }

    /// The answer of the registry, which may ask first who we are.
    async fn get(&mut self, path: &str) -> Result<Response> {
        let url = format!("{}/{path}", self.base);
        for asked in [false, true] {
            let mut request = self.client.get(&url).header(ACCEPT, ACCEPTED);
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request.send().await.with_context(|| format!("cannot fetch {url}"))?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked => self.authorize(&response).await?,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    bail!(
                        "{url} is refused; --auth-file names the file with the credentials that may read it"
                    )
                }
                StatusCode::NOT_FOUND => bail!("{url} is not there"),
                status => bail!("{url} is answered with {status}"),
            }
        }
        bail!("{url} is refused")
    }

    /// Gets the right that the answer demands.
    async fn authorize(&mut self, refusal: &Response) -> Result<()> {
        let challenge = refusal.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let Challenge { realm, service } = match challenge.map(Challenge::parse) {
            Some(Ok(Some(challenge))) => challenge,
            // Basic: to the registry itself.
            Some(Ok(None)) => {
                self.authorization.clone_from(&self.basic);
                return Ok(());
            }
            Some(Err(())) | None => bail!("{} does not say what it wants to know of us", self.base),
        };
        let scope = format!("repository:{}:pull", self.repository);
        let query =
            service.iter().map(|service| ("service", service.as_str())).chain([("scope", scope.as_str())]);
        let url =
            Url::parse_with_params(&realm, query).with_context(|| format!("{realm:?} is no address"))?;
        ensure!(is_private(&url), "{realm} gives tokens where everybody can read along");
        let mut request = self.client.get(url);
        if let Some(basic) = &self.basic {
            request = request.header(AUTHORIZATION, basic.clone());
        }
        let answer = request.send().await.with_context(|| format!("cannot ask {realm} for a token"))?;
        ensure!(answer.status() == StatusCode::OK, "{realm} gives no token: {}", answer.status());
        let token: Token = serde_json::from_slice(&document(answer).await?)
            .ok()
            .with_context(|| format!("{realm} gives no token"))?;
        let token = token.token.or(token.access_token).with_context(|| format!("{realm} gives no token"))?;
        self.authorization = Some(secret("Bearer", &token)?);
        Ok(())
    }

    /// The index or manifest that is asked for, kept in `to`.
    async fn root(&mut self, version: &Version, to: &Path) -> Result<Descriptor> {
        let name = match version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        };
        let answer = self.get(&format!("manifests/{name}")).await?;
        let kind =
            answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = document(answer).await?;
        let digest = Digest::of(&bytes);
        if let Version::Digest(wanted) = version {
            ensure!(digest == *wanted, "{wanted} is answered with {digest}");
        }
        let descriptor = Descriptor { media_type, digest, size: bytes.len() as u64, platform: None };
        fs::write(blob(to, &descriptor), bytes)?;
        Ok(descriptor)
    }

    /// Fetches everything that the index or manifest of `descriptor` names, and that is for our machines.
    async fn complete(&mut self, descriptor: &Descriptor, to: &Path, depth: usize) -> Result<()> {
        ensure!(depth > 0, "its indexes are nested too deep");
        let text = fs::read(blob(to, descriptor))?;
        let named = || descriptor.digest.to_string();
        if is_index(&descriptor.media_type) {
            let index: Index = serde_json::from_slice(&text).with_context(named)?;
            for entry in index.ours() {
                let answer = self.get(&format!("manifests/{}", entry.digest)).await?;
                self.keep(answer, entry, DOCUMENT_MAX, to).await?;
                Box::pin(self.complete(entry, to, depth - 1)).await?;
            }
        } else if is_image(&descriptor.media_type) {
            let image: ImageManifest = serde_json::from_slice(&text).with_context(named)?;
            for layer in &image.layers {
                self.left = self.left.checked_sub(layer.size).context("its layers are too large together")?;
                let answer = self.get(&format!("blobs/{}", layer.digest)).await?;
                self.keep(answer, layer, layer.size, to).await?;
            }
        } else {
            bail!("{} is of type {:?}, not an image", descriptor.digest, descriptor.media_type);
        }
        Ok(())
    }

    /// Stores what `descriptor` describes, of at most `max` bytes, if it is that.
    async fn keep(&self, mut answer: Response, descriptor: &Descriptor, max: u64, to: &Path) -> Result<()> {
        let digest = descriptor.digest;
        ensure!(descriptor.size <= max, "{digest} is too large");
        let mut file = File::create(blob(to, descriptor))?;
        let (mut hash, mut length) = (Sha256::new(), 0);
        while let Some(piece) = answer.chunk().await.with_context(|| format!("{digest} is broken off"))? {
            length += piece.len() as u64;
            ensure!(length <= descriptor.size, "{digest} is longer than its description says");
            hash.update(&piece);
            file.write_all(&piece)?;
        }
        ensure!(length == descriptor.size, "{digest} is shorter than its description says");
        ensure!(
            Digest(hash.finalize().into()) == digest,
            "what is sent is not what its digest {digest} says"
        );
        Ok(())
    }
}

/// The whole of a short answer.
async fn document(mut answer: Response) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        ensure!((bytes.len() + piece.len()) as u64 <= DOCUMENT_MAX, "{} is too large", answer.url());
        bytes.extend(piece);
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Where a token is had.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// What a `WWW-Authenticate` header demands (RFC 9110 §11.6.1); none when that is name and password.
    fn parse(text: &str) -> Result<Option<Self>, ()> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(None);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(());
        }
        let value = |name: &str| {
            let mut rest = rest;
            while let Some((key, after)) = rest.split_once("=\"") {
                let (value, after) = after.split_once('"')?;
                if key.trim_start_matches([',', ' ']).eq_ignore_ascii_case(name) {
                    return Some(value.to_owned());
                }
                rest = after;
            }
            None
        };
        Ok(Some(Self { realm: value("realm").ok_or(())?, service: value("service") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Reference> {
        Reference::parse(text).and_then(Result::ok)
    }

    #[test]
    fn references_name_host_repository_and_version() {
        let tag = |host: &str, repository: &str, tag: &str| Reference {
            host: host.into(),
            repository: repository.into(),
            version: Version::Tag(tag.into()),
        };
        assert_eq!(
            parse("oci://registry.example/os/debian:12"),
            Some(tag("registry.example", "os/debian", "12"))
        );
        assert_eq!(parse("oci://127.0.0.1:5000/tiny:v1.0"), Some(tag("127.0.0.1:5000", "tiny", "v1.0")));
        let digest = Digest::of(b"");
        let by_digest = parse(&format!("oci://h/a@{digest}")).expect("understood");
        assert_eq!(by_digest.version, Version::Digest(digest));
        assert!(Reference::parse("/srv/layout").is_none() && Reference::parse("docker://h/a:1").is_none());
    }

    #[test]
    fn p27_what_would_change_the_request_is_no_reference() {
        for bad in [
            "h",
            "h/",
            "/a:1",
            "h/a",
            "h/a:",
            "h/a:1?x",
            "h/a:1#x",
            "h/../a:1",
            "h/a//b:1",
            "u@h/a:1",
            "u:p@h/a:1",
            "h/a%2f:1",
            "h/a:1/../b",
            "h/a@sha256:1",
            "h/a b:1",
            "h\n/a:1",
        ] {
            assert!(matches!(Reference::parse(&format!("oci://{bad}")), Some(Err(_))), "{bad:?}");
        }
    }

    #[test]
    fn challenges_tell_where_a_token_is_had() {
        let challenge = |realm: &str, service: Option<&str>| {
            Ok(Some(Challenge { realm: realm.into(), service: service.map(Into::into) }))
        };
        let text =
            r#"Bearer realm="https://a.example/token",service="r.example",scope="repository:a:pull,push""#;
        assert_eq!(Challenge::parse(text), challenge("https://a.example/token", Some("r.example")));
        assert_eq!(
            Challenge::parse(r#"bearer scope="x", realm="https://a/""#),
            challenge("https://a/", None)
        );
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Ok(None));
        for bad in ["", "Digest realm=\"x\"", "Bearer", "Bearer realm=\"x", "Bearer realm=x"] {
            assert_eq!(Challenge::parse(bad), Err(()), "{bad:?}");
        }
    }

    #[test]
    fn nothing_goes_where_everybody_can_read_along() {
        let private = |text: &str| is_private(&Url::parse(text).expect("an address"));
        assert!(
            private("https://a.example/x")
                && private("http://127.0.0.1:5000/")
                && private("http://localhost/")
        );
        for bad in
            ["http://a.example/", "http://127.0.0.1.example/", "ftp://127.0.0.1/", "file:///etc/passwd"]
        {
            assert!(!private(bad), "{bad}");
        }
    }
}

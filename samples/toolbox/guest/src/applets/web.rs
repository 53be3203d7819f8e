//! `wget` and `curl`: requests over `http` and `https`, which the host sends for us.

use std::time::Duration;

use super::time::duration;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::platform::{self, Request, Response};
use crate::reactor;
use crate::stream::{Handle, Mode};

applets! {
    "wget" => wget,
    "curl" => curl,
}

/// As many answers may lead elsewhere.
const REDIRECTS_MAX: u32 = 10;
/// How long an answer is waited for unless `-T` says.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place in the web.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    secure: bool,
    authority: String,
    path: String,
}

impl Url {
    fn read(text: &str) -> Result<Self, Failure> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let secure = match scheme {
            "http" => false,
            "https" => true,
            other => return Err(Failure::new(format!("not an http or https URL: {other}:"))),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        if authority.is_empty() {
            return Err(Failure::new(format!("bad address `{text}`")));
        }
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            secure,
            authority: authority.to_owned(),
            path: format!("{slash}{path}"),
        })
    }

    /// Where an answer leads to.
    fn follow(&self, location: &str) -> Result<Self, Failure> {
        if location.contains("://") {
            return Self::read(location);
        }
        let mut url = self.clone();
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.secure { "https" } else { "http" };
            return Self::read(&format!("{scheme}://{rest}"));
        }
        if location.starts_with('/') {
            location.clone_into(&mut url.path);
        } else {
            let path = self.path.split('?').next().unwrap_or("/");
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            url.path = format!("{folder}/{location}");
        }
        Ok(url)
    }

    /// The name of a file for what is there.
    fn file(&self) -> &str {
        let path = self.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.is_empty() { "index.html" } else { name }
    }
}

/// What is asked of a place.
struct Asking {
    method: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    patience: Duration,
    follows: bool,
}

impl Asking {
    /// Sends the request, and again where the answer leads to.
    async fn send(&self, mut url: Url) -> Result<(Url, Response), Failure> {
        let (mut method, mut body) = (self.method.clone(), self.body.clone());
        for _ in 0..=REDIRECTS_MAX {
            let request = Request {
                method: method.clone(),
                secure: url.secure,
                authority: url.authority.clone(),
                path: url.path.clone(),
                headers: self.headers.clone(),
                body: body.clone(),
            };
            let end = platform::now().saturating_add(self.patience);
            let sending = platform::request(request);
            let answer = reactor::unless(sending, reactor::wait_until(end)).await;
            let response = match answer {
                Some(Ok(response)) => response,
                Some(Err(error)) => {
                    return Err(Failure::about(
                        format!("can't connect to {}", url.authority),
                        &error,
                    ));
                }
                None => return Err(Failure::new("download timed out")),
            };
            let location = response.header("location");
            match (response.status, location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) if self.follows => {
                    url = url.follow(&location)?;
                    if matches!(response.status, 301..=303) && method != "HEAD" {
                        (method, body) = ("GET".to_owned(), Vec::new());
                    }
                }
                _ => return Ok((url, response)),
            }
        }
        Err(Failure::new("too many redirections"))
    }
}

/// Copies the body of an answer; no piece may take longer than the patience.
async fn copy(response: &Response, output: &Handle, patience: Duration) -> Result<(), Failure> {
    loop {
        let end = platform::now().saturating_add(patience);
        let piece = reactor::unless(response.read(), reactor::wait_until(end)).await;
        let piece = piece.ok_or_else(|| Failure::new("download timed out"))??;
        if piece.is_empty() {
            return Ok(());
        }
        output.write(&piece).await?;
    }
}

/// Certificates cannot be left unchecked; without one there is nothing to check.
fn refuse_unchecked(url: &Url, options: &Options) -> Result<(), Failure> {
    if options.has('k') && url.secure {
        return Err(Failure::usage(
            "certificates are always checked; name an authority in SSL_CERT_FILE",
        ));
    }
    Ok(())
}

fn header(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

/// Long names of the options of `wget`.
const WGET: &[(&str, char)] = &[
    ("output-document", 'O'),
    ("quiet", 'q'),
    ("timeout", 'T'),
    ("spider", 's'),
    ("post-data", 'D'),
    ("post-file", 'F'),
    ("header", 'H'),
    ("server-response", 'S'),
    ("user-agent", 'U'),
    ("directory-prefix", 'P'),
    ("tries", 't'),
    ("no-verbose", 'q'),
    ("no-check-certificate", 'k'),
    ("method", 'M'),
];

/// Adds what the body is, unless that was said.
fn with_form(headers: &mut Vec<(String, String)>) {
    let known = |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-type");
    if !headers.iter().any(known) {
        let form = "application/x-www-form-urlencoded";
        headers.push(("Content-Type".to_owned(), form.to_owned()));
    }
}

async fn wget_asking(context: &Context, options: &Options) -> Result<Asking, Failure> {
    let body = match (options.value('D'), options.value('F')) {
        (Some(text), _) => Some(text.as_bytes().to_vec()),
        (None, Some(name)) => Some(context.open(name)?.read_all().await?),
        (None, None) => None,
    };
    let mut headers: Vec<_> = options.values('H').filter_map(header).collect();
    headers.push((
        "User-Agent".to_owned(),
        options.value('U').unwrap_or("Wget").to_owned(),
    ));
    if body.is_some() {
        with_form(&mut headers);
    }
    let usual = match (&body, options.has('s')) {
        (Some(_), _) => "POST",
        (None, true) => "HEAD",
        (None, false) => "GET",
    };
    Ok(Asking {
        method: options.value('M').unwrap_or(usual).to_owned(),
        headers,
        body: body.unwrap_or_default(),
        patience: options.value('T').map_or(Ok(PATIENCE), duration)?,
        follows: true,
    })
}

async fn wget(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "O:qT:sD:F:H:SU:P:t:kM:Y:c", WGET)?;
    let [text] = options.operands.as_slice() else {
        return Err(Failure::usage("one URL is expected"));
    };
    let url = Url::read(text)?;
    refuse_unchecked(&url, &options)?;
    let asking = wget_asking(&context, &options).await?;
    let (url, response) = asking.send(url).await?;
    if options.has('S') {
        let mut text = format!("  HTTP/1.1 {}\n", response.status);
        for (name, value) in response.headers() {
            text.push_str(&format!("  {name}: {value}\n"));
        }
        context.say(&text).await;
    }
    if response.status >= 400 {
        let text = format!("server returned error: HTTP/1.1 {}", response.status);
        return Err(Failure::new(text));
    }
    if options.has('s') {
        if !options.has('q') {
            context.say("remote file exists\n").await;
        }
        return context.end(0).await;
    }
    let name = match (options.value('O'), options.value('P')) {
        (Some(name), _) => name.to_owned(),
        (None, Some(folder)) => format!("{}/{}", folder.trim_end_matches('/'), url.file()),
        (None, None) => url.file().to_owned(),
    };
    let output = match name.as_str() {
        "-" => context.descriptors.get(1)?,
        name => context.create(name, Mode::Write)?,
    };
    copy(&response, &output, asking.patience).await?;
    if !options.has('q') && name != "-" {
        context.say(&format!("'{name}' saved\n")).await;
    }
    context.end(0).await
}

/// Long names of the options of `curl`.
const CURL: &[(&str, char)] = &[
    ("silent", 's'),
    ("show-error", 'S'),
    ("fail", 'f'),
    ("output", 'o'),
    ("request", 'X'),
    ("data", 'd'),
    ("data-raw", 'd'),
    ("data-binary", 'd'),
    ("header", 'H'),
    ("include", 'i'),
    ("head", 'I'),
    ("max-time", 'm'),
    ("connect-timeout", 'c'),
    ("location", 'L'),
    ("user-agent", 'A'),
    ("write-out", 'w'),
    ("globoff", 'g'),
    ("insecure", 'k'),
    ("url", 'u'),
    ("ipv4", '4'),
    ("ipv6", '6'),
    ("disable", 'q'),
    ("no-buffer", 'N'),
    ("verbose", 'v'),
];

async fn curl_asking(context: &Context, options: &Options) -> Result<Asking, Failure> {
    let data: Vec<&str> = options.values('d').collect();
    let body = match data.as_slice() {
        [name] if name.starts_with('@') => context.open(&name[1..])?.read_all().await?,
        data => data.join("&").into_bytes(),
    };
    let mut headers: Vec<_> = options.values('H').filter_map(header).collect();
    headers.push((
        "User-Agent".to_owned(),
        options.value('A').unwrap_or("curl").to_owned(),
    ));
    if !data.is_empty() {
        with_form(&mut headers);
    }
    let usual = match (options.has('I'), data.is_empty()) {
        (true, _) => "HEAD",
        (false, false) => "POST",
        (false, true) => "GET",
    };
    let patience = options.value('m').or(options.value('c'));
    Ok(Asking {
        method: options.value('X').unwrap_or(usual).to_owned(),
        headers,
        body,
        patience: patience.map_or(Ok(PATIENCE), duration)?,
        follows: options.has('L'),
    })
}

/// The part of curl that scripts use; exit codes are curl's.
async fn curl(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "sSfo:X:d:H:iIm:c:LA:w:gku:v46qN", CURL)?;
    let text = options
        .value('u')
        .or(options.operands.first().map(String::as_str));
    let url = Url::read(text.ok_or_else(|| Failure::usage("a URL is expected"))?)?;
    refuse_unchecked(&url, &options)?;
    let asking = curl_asking(&context, &options).await?;
    let (_, response) = match asking.send(url).await {
        Ok(answer) => answer,
        Err(failure) => {
            let silent = options.has('s') && !options.has('S');
            let code = match failure.message() {
                text if text.contains("timed out") => 28,
                text if text.contains("does not resolve") => 6,
                _ => 7,
            };
            let text = if silent { "" } else { failure.message() };
            return Err(Failure::with_code(code, text));
        }
    };
    if response.status >= 400 && options.has('f') {
        let text = format!("the server answered {}", response.status);
        return Err(Failure::with_code(22, text));
    }
    if options.has('i') || options.has('I') {
        context
            .write(format!("HTTP/1.1 {}\r\n", response.status))
            .await?;
        for (name, value) in response.headers() {
            context.write(format!("{name}: {value}\r\n")).await?;
        }
        context.write("\r\n").await?;
        context.flush().await?;
    }
    let output = match options.value('o') {
        None | Some("-") => context.descriptors.get(1)?,
        Some(name) => context.create(name, Mode::Write)?,
    };
    copy(&response, &output, asking.patience).await?;
    if let Some(format) = options.value('w') {
        let text = format.replace("%{http_code}", &response.status.to_string());
        let text = text.replace("%{response_code}", &response.status.to_string());
        context.write(super::escapes::unescape(&text)).await?;
    }
    context.end(0).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_followed() {
        for (text, location, expected) in [
            ("web:8080", None, "http web:8080 /"),
            ("https://a.b/c?d#e", None, "https a.b /c?d"),
            ("http://a?x=1", None, "http a /?x=1"),
            ("http://a/b/c", Some("/d"), "http a /d"),
            ("http://a/b/c?q=/", Some("d"), "http a /b/d"),
            ("http://a/b", Some("https://c/d"), "https c /d"),
            ("https://a/b", Some("//c"), "https c /"),
        ] {
            let mut url = Url::read(text).expect("it is one");
            if let Some(location) = location {
                url = url.follow(location).expect("it leads somewhere");
            }
            let scheme = if url.secure { "https" } else { "http" };
            let shown = format!("{scheme} {} {}", url.authority, url.path);
            assert_eq!(shown, expected, "for {text}");
        }
        assert!(Url::read("ftp://a/b").is_err());
        assert!(Url::read("http://").is_err());
    }
}

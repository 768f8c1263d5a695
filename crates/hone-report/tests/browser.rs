//! The page in a real browser: rendered by headless Chromium inside frames of a desktop's and a phone's width, light and dark,
//! and measured from inside. Skips, saying so, where Chromium is not installed.

mod given;
mod sample;

use std::process::Command;

/// Runs Chromium on a page and returns its document after scripts ran.
fn dump_dom(page: &std::path::Path, profile: &std::path::Path) -> Option<String> {
    let run = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: chromium could not be started ({error})");
            return None;
        }
    };
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A page that holds `html` in a frame and writes what it measures into its own document.
fn harness(html: &str, width: u32, scheme: &str) -> String {
    let escaped = html.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        r#"<!doctype html><body><iframe id="f" style="width:{width}px;height:900px;border:0;color-scheme:{scheme}" srcdoc="{escaped}"></iframe>
<pre id="out"></pre><script>
f.onload = () => {{
  const d = f.contentDocument, root = d.documentElement, w = f.contentWindow;
  const shown = [...d.querySelectorAll('.chart svg')].filter(s => s.getBoundingClientRect().width > 0);
  const texts = shown.flatMap(s => [...s.querySelectorAll('text')].map(t => [t.getBoundingClientRect(), s.getBoundingClientRect()]));
  out.textContent = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth,
    charts: shown.length,
    clipped: texts.filter(([t, s]) => t.left < s.left - 1 || t.right > s.right + 1 || t.bottom > s.bottom + 1 || t.top < s.top - 1).length,
    overlapping: shown.flatMap(s => {{
      const t = [...s.querySelectorAll('text')].map(t => [t.getBoundingClientRect(), t.textContent]);
      return t.flatMap(([a, x], i) => t.slice(i + 1).filter(([b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
      ).map(([b, y]) => x + ' / ' + y));
    }}),
    sideways: [...d.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1).map(s => s.textContent.trim().slice(0, 40)),
    smallest: Math.min(...texts.map(([t]) => t.height)),
    page: w.getComputedStyle(d.body).backgroundColor,
    ink: w.getComputedStyle(d.body).color,
    dot: w.getComputedStyle(shown[0].querySelector('circle')).fill,
    verdict: d.querySelector('.outcome').getBoundingClientRect().top,
    scripts: d.scripts.length,
    requests: w.performance.getEntriesByType('resource').length,
  }});
}};
</script></body>"#
    )
}

#[test]
fn the_page_fits_and_reads_at_every_width_and_in_both_schemes() {
    let mut report = sample::report();
    report.ledger.measures.extend(given::measures());
    let html = hone_report::render(&report).expect("the sample renders");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut pages = Vec::new();
    for (width, scheme) in [
        (1280, "light"),
        (1280, "dark"),
        (1600, "light"),
        (1100, "light"),
        (800, "light"),
        (390, "light"),
        (390, "dark"),
        (320, "light"),
    ] {
        let page = dir.path().join(format!("{width}-{scheme}.html"));
        std::fs::write(&page, harness(&html, width, scheme)).expect("the page is written");
        // A browser on a busy machine sometimes dumps the page before the frame has loaded: ask again.
        let mut seen = serde_json::Value::Null;
        for attempt in 0..4 {
            let Some(dom) = dump_dom(&page, &dir.path().join(format!("profile-{attempt}"))) else { return };
            let json = dom.split("<pre id=\"out\">").nth(1).and_then(|s| s.split("</pre>").next()).unwrap_or("");
            seen = serde_json::from_str(json).unwrap_or_default();
            if !seen.is_null() {
                break;
            }
        }
        let at = format!("at {width} px, {scheme}: {seen}");
        assert!(seen["overflow"].as_f64().is_some_and(|v| v <= 0.0), "the page scrolls sideways {at}");
        // Targets, other shares, other metrics, loss by skill (folded, and measured all the same), two reliability diagrams,
        // curves, spread, maps, the loss curve; attention before and after, scores above a threshold and their change by group,
        // survival functions and what each step loses.
        assert_eq!(seen["charts"], 15, "each chart is there once {at}");
        assert_eq!(seen["clipped"], 0, "text of a plot leaves the plot {at}");
        assert_eq!(seen["overlapping"], serde_json::json!([]), "texts of a plot cover each other {at}");
        assert_eq!(seen["sideways"], serde_json::json!([]), "a table has to be scrolled sideways {at}");
        assert!(seen["smallest"].as_f64().is_some_and(|v| v >= 10.0), "plot text is too small to read {at}");
        assert!(seen["verdict"].as_f64().is_some_and(|v| v < 500.0), "the verdict is not the first thing seen {at}");
        assert_eq!(seen["requests"], 0, "the page asked for something from outside {at}");
        pages.push((scheme, seen));
    }
    let color = |scheme: &str, what: &str| {
        pages.iter().find(|(s, _)| *s == scheme).map(|(_, seen)| seen[what].to_string()).unwrap_or_default()
    };
    for what in ["page", "ink", "dot"] {
        assert_ne!(color("light", what), color("dark", what), "`{what}` is the same in light and dark");
    }
}

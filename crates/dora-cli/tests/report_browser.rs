//! A page of `dora report` in a headless Chromium, at the width of a phone and of a desk, light and dark: nothing is wider than
//! the page but what scrolls in its own box, every picture is there, every plot has a size. It needs a browser, so it is run
//! by hand:
//!
//!     cargo test --release -p dora-cli --test report_browser -- --ignored --nocapture
//!
//! `CHROMIUM` names another browser than those that are looked for (Debian: chromium-headless-shell); with `SCREENSHOTS`, a
//! folder, pictures of the page are left there.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::report::everything;
use support::*;

/// Names that a browser has.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// Looks at the page from inside and leaves what it found as JSON in the attribute `data-found` of the body.
const LOOK: &str = r#"<script>addEventListener("load", () => {
  const wide = element => element.getBoundingClientRect().right > innerWidth + 0.5 && !element.closest(".scroll > *");
  const flat = element => element.getBoundingClientRect().width < 100 || element.getBoundingClientRect().height < 50;
  const every = selector => [...document.querySelectorAll(selector)];
  document.body.dataset.found = JSON.stringify({
    width: innerWidth, page: document.documentElement.scrollWidth, wide: every("body *").filter(wide).length,
    missing: every("img").filter(image => !image.complete || image.naturalWidth === 0).length,
    flat: every("svg, img").filter(flat).length, plots: every("svg").length, pictures: every("img").length,
    scrolling: every(".scroll").filter(box => box.scrollWidth > box.clientWidth).length,
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(every("svg text")[0]).fill,
  });
});</script>"#;

fn browser() -> PathBuf {
    let asked = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let folders = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let known = BROWSERS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    asked.into_iter().chain(known).find(|path| path.is_file()).expect("a Chromium in PATH or CHROMIUM")
}

/// Opens a page in a window of a width, with more options.
fn open(page: &Path, width: u32, dark: bool, more: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let scheme = if dark { 0 } else { 1 };
    let output = Command::new(browser())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--timeout=20000"])
        .arg(format!("--user-data-dir={}", shown(home.path())))
        .arg(format!("--window-size={width},1600"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .args(more)
        .arg(format!("file://{}", shown(page)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is to be seen on a page: a copy of it that may run a script is opened.
fn look(room: &Room, html: &str, width: u32, dark: bool) -> Value {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
    assert!(html.contains(policy) && html.contains("</body>\n</html>"));
    let open_to_scripts = html.replace(policy, "").replace("</body>\n</html>", &format!("{LOOK}</body></html>"));
    let dom = open(&room.write("looked-at.html", open_to_scripts), width, dark, &["--dump-dom"]);
    let found = dom.split("data-found=\"").nth(1).unwrap_or_else(|| panic!("the script did not run: {dom}"));
    serde_json::from_str(&found.split('"').next().unwrap().replace("&quot;", "\"")).unwrap()
}

#[test]
#[ignore = "needs Chromium"]
fn a_page_on_a_phone_and_on_a_desk() {
    let room = Room::new();
    let output = room.path("page.html");
    let inputs = everything(&room);
    dora(["report", "--output", shown(&output)].into_iter().chain(inputs.iter().map(|path| shown(path)))).good();
    let html = fs::read_to_string(&output).unwrap();
    for width in [360, 768, 1280] {
        for dark in [false, true] {
            let found = look(&room, &html, width, dark);
            println!("{width} px, {}: {found}", if dark { "dark" } else { "light" });
            let number = |name: &str| found[name].as_u64().unwrap();
            assert_eq!(number("width"), u64::from(width));
            assert_eq!(
                [number("page"), number("wide"), number("missing"), number("flat")],
                [u64::from(width), 0, 0, 0]
            );
            assert_eq!((number("plots"), number("pictures")), (10, 3));
            assert!(width > 360 || number("scrolling") > 0, "wide tables scroll in their boxes");
            let [paper, ink] = if dark {
                ["rgb(21, 23, 26)", "rgb(228, 230, 232)"]
            } else {
                ["rgb(255, 255, 255)", "rgb(28, 30, 33)"]
            };
            assert_eq!((&found["paper"], &found["ink"]), (&paper.into(), &ink.into()));
            if let Some(folder) = std::env::var_os("SCREENSHOTS") {
                let name = format!("{width}-{}.png", if dark { "dark" } else { "light" });
                let to = format!("--screenshot={}", shown(&PathBuf::from(folder).join(name)));
                open(&output, width, dark, &[&to]);
            }
        }
    }
}

/// The look finds what it is for.
#[test]
#[ignore = "needs Chromium"]
fn planted_faults_are_found() {
    let room = Room::new();
    let output = room.path("page.html");
    let run = support::report::run(&room, "run", &support::report::record("dora", 1), &support::report::steps(20));
    dora(["report", shown(&run), "--output", shown(&output)]).good();
    let html = fs::read_to_string(&output).unwrap();
    let with = |fault: &str| look(&room, &html.replacen("<main>", &format!("<main>{fault}"), 1), 360, false);
    let good = with("");
    assert_eq!(
        (&good["page"], &good["wide"], &good["missing"], &good["flat"]),
        (&360.into(), &0.into(), &0.into(), &0.into())
    );
    let wide = with("<p style=\"width:500px;max-width:none\">wide</p>");
    assert!(wide["page"].as_u64() > Some(360) && wide["wide"] == 1, "{wide}");
    let missing = with("<img src=\"data:image/svg+xml;base64,bm9uZQ==\" alt=\"\">");
    assert_eq!((&missing["missing"], &missing["flat"]), (&1.into(), &1.into()));
}

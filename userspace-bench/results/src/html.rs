// SPDX-License-Identifier: GPL-2.0
//! A run as one page of HTML that needs nothing else: tables, and pictures in SVG.

use std::fmt::Write;

use crate::{
    advise, chart,
    run::{Metric, Missing, Run, Unit},
    table,
};

/// Light or dark as the reader's system is, on a narrow screen with pictures of their own, on paper without what
/// scrolls. The colours of the pictures' paper and ink are those of the page.
const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#222;--line:#ddd;--bad:#b00020}\
@media screen and (prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#ddd;--line:#3a3f47;--bad:#ff6b7d}}\
body{font:15px/1.5 sans-serif;margin:2em auto;max-width:960px;padding:0 1em;color:var(--ink);background:var(--paper)}\
.wide{overflow-x:auto}\
table{border-collapse:collapse;font-size:13px;margin:1em 0}\
td,th{padding:2px 8px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left;font-family:monospace;white-space:normal;overflow-wrap:anywhere;\
min-width:9em}\
td.text{text-align:left;white-space:normal;overflow-wrap:anywhere}\
.failed{color:var(--bad);font-weight:bold}\
summary{cursor:pointer}summary h2{display:inline-block}\
svg{max-width:100%;height:auto;display:block}\
svg [fill=\"#FFFFFF\"]{fill:var(--paper)}svg [fill=\"#000000\"]{fill:var(--ink)}\
svg [stroke=\"#000000\"]{stroke:var(--ink)}svg [stroke=\"#FFFFFF\"]{stroke:var(--paper)}\
.narrow{display:none}\
@media screen and (max-width:640px){.broad{display:none}.narrow{display:block}}\
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--line:#bbb;--bad:#b00020}body{max-width:none;margin:0}\
h2{break-after:avoid}svg,tr{break-inside:avoid}.wide{overflow:visible}td,th{padding:1px 4px;font-size:8pt}}";

/// What [`STYLE`] lacks: the colours of series on a dark screen.
fn dark() -> String {
    let mut rules = String::new();
    for (light, dark) in chart::on_dark() {
        for what in ["fill", "stroke"] {
            let _ = write!(rules, "svg [{what}=\"{light}\"]{{{what}:{dark}}}");
        }
    }
    format!("@media screen and (prefers-color-scheme:dark){{{rules}}}")
}

/// The page.
pub fn page(run: &Run) -> String {
    let mut body = String::new();
    let device = run.environment.get("device").map_or("", String::as_str);
    let _ = write!(body, "<h1>On-demand paging on {}</h1>", escaped(device));
    let _ = write!(body, "<p>{}.</p>", escaped(&table::closing_line(run)));
    if run.aligned {
        let _ = write!(body, "<p>Accesses were limited: {}.</p>", table::ALIGNED);
    }
    missing(&mut body, "Failed", "failed", &run.failed);
    if advise::is_possible(run) {
        advice(&mut body, run);
    }
    environment(&mut body, run);
    body.push_str(
        "<p>In the pictures a thin line goes from the least sample to the most, a thick one from the median \
         (red) to the 99th percentile, or the 90th; the blue point is the 99.9th. A percentile is told only where \
         there are enough samples; the interval beside the median holds the true one in 95 of 100 cases.</p>",
    );
    for suite in run.suites() {
        section(&mut body, run, suite);
    }
    counters(&mut body, run);
    missing(&mut body, "Skipped", "skipped", &run.skipped);
    format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>odp-bench: {}</title>\
         <style>{STYLE}{}</style><body>{body}</body></html>\n",
        escaped(device),
        dark()
    )
}

fn advice(body: &mut String, run: &Run) {
    body.push_str("<h2>Is it for you?</h2><table>");
    for line in advise::advise(run)
        .lines()
        .take_while(|line| !line.is_empty())
    {
        let (title, text) = line.split_once("  ").unwrap_or((line, ""));
        let (title, text) = (escaped(title), escaped(text.trim()));
        let _ = write!(body, "<tr><td>{title}<td class=\"text\">{text}");
    }
    body.push_str("</table>");
}

fn environment(body: &mut String, run: &Run) {
    body.push_str("<h2>Environment</h2><table>");
    for (name, value) in &run.environment {
        let _ = write!(
            body,
            "<tr><td>{}<td class=\"text\">{}",
            escaped(name),
            escaped(value)
        );
    }
    body.push_str("</table>");
}

fn section(body: &mut String, run: &Run, suite: &str) {
    let metrics: Vec<&Metric> = run.metrics.iter().filter(|m| m.suite() == suite).collect();
    let _ = write!(body, "<h2>{}</h2>", escaped(suite));
    for unit in Unit::ALL {
        let of_unit: Vec<&Metric> = metrics.iter().copied().filter(|m| m.unit == unit).collect();
        for (class, layout) in [("broad", &chart::BROAD), ("narrow", &chart::NARROW)] {
            let pictures = chart::distributions(&of_unit, layout).into_iter();
            for svg in pictures.chain(chart::against_size(&of_unit, layout)) {
                let _ = write!(body, "<div class=\"{class}\">{svg}</div>");
            }
        }
    }
    body.push_str(
        "<div class=\"wide\"><table><tr><th><th>n<th>mean<th>p50<th>95 % of it<th>p90<th>p99<th>p99.9<th>max",
    );
    for metric in metrics {
        let d = &metric.summary;
        let _ = write!(body, "<tr><td>{}<td>{}", escaped(&metric.name), d.count);
        let cells = [
            metric.unit.show(d.mean),
            metric.unit.show(d.p50),
            table::within(metric),
            table::told(metric, d.p90),
            table::told(metric, d.p99),
            table::told(metric, d.p999),
            metric.unit.show(d.max),
        ];
        let _ = write!(body, "<td>{}", cells.join("<td>"));
    }
    body.push_str("</table></div>");
}

fn counters(body: &mut String, run: &Run) {
    body.push_str(
        "<details><summary><h2>What the driver counted</h2></summary><div class=\"wide\"><table><tr>\
         <th>case<th>counter<th>before<th>after<th>more",
    );
    for counted in &run.counters {
        for (name, by) in counted.growth() {
            let after = counted.after.get(name).copied().unwrap_or(by);
            let (case, name) = (escaped(&counted.case), escaped(name));
            let before = after - by;
            let _ = write!(
                body,
                "<tr><td>{case}<td>{name}<td>{before}<td>{after}<td>{by}"
            );
        }
    }
    body.push_str("</table></div></details>");
}

fn missing(body: &mut String, title: &str, class: &str, list: &[Missing]) {
    if list.is_empty() {
        return;
    }
    let _ = write!(body, "<h2>{title}</h2><ul class=\"{class}\">");
    for Missing { case, why } in list {
        let _ = write!(body, "<li>{}: {}", escaped(case), escaped(why));
    }
    body.push_str("</ul>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Counted;
    use std::collections::BTreeMap;

    #[test]
    fn the_page_holds_all_and_escapes() {
        let environment = BTreeMap::from([("device".to_owned(), "<rxe0>".to_owned())]);
        let mut run = Run::new(false, environment);
        let samples = vec![1500.0; 10];
        run.metrics
            .extend(Metric::new("fault/x", Unit::Nanoseconds, None, samples));
        run.failed.push(Missing {
            case: "fault/y".into(),
            why: "byte 3 is wrong".into(),
        });
        run.counters.push(Counted {
            case: "fault/x".into(),
            before: BTreeMap::from([("faults".into(), 40)]),
            after: BTreeMap::from([("faults".into(), 52)]),
        });
        let page = page(&run);
        assert!(page.contains("&lt;rxe0&gt;") && !page.contains("<rxe0>"));
        assert!(page.contains("<svg") && page.contains("fault/x"));
        // Advice only where there is something to base it on; a picture for each width.
        assert!(!page.contains("Is it for you?"));
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("byte 3 is wrong"));
        assert!(page.contains("<td>fault/x<td>faults<td>40<td>52<td>12"));
    }

    /// The contrast of two colours, as the guidelines for accessibility compute it.
    fn contrast(a: &str, b: &str) -> f64 {
        let light = |colour: &str| -> f64 {
            let part = |at: usize| {
                let value = u8::from_str_radix(&colour[at..at + 2], 16).unwrap();
                match f64::from(value) / 255.0 {
                    dark if dark <= 0.04045 => dark / 12.92,
                    part => ((part + 0.055) / 1.055).powf(2.4),
                }
            };
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
        };
        let (a, b) = (light(a) + 0.05, light(b) + 0.05);
        f64::max(a / b, b / a)
    }

    #[test]
    fn every_colour_can_be_seen_in_the_dark() {
        let paper = STYLE
            .split("prefers-color-scheme:dark){:root{--paper:")
            .nth(1);
        let paper = &paper.unwrap()[..7];
        let style = dark();
        for (light, colour) in chart::on_dark() {
            assert!(contrast(colour, paper) >= 4.5, "{colour} on {paper}");
            for what in ["fill", "stroke"] {
                let rule = format!("svg [{what}=\"{light}\"]{{{what}:{colour}}}");
                assert!(style.contains(&rule), "{rule}");
            }
        }
        // The picture has the colours as they are overridden.
        let metric = Metric::new("fault/x", Unit::Nanoseconds, None, vec![1500.0; 10]).unwrap();
        let picture = &chart::distributions(&[&metric], &chart::BROAD)[0];
        let (blue, _) = chart::on_dark().next().unwrap();
        assert!(picture.contains(&format!("stroke=\"{blue}\"")));
    }

    #[test]
    fn it_suits_narrow_and_dark_screens_and_paper() {
        let mut run = Run::new(false, BTreeMap::new());
        for number in 0..60 {
            let name = format!("fault/{number}");
            let metric = Metric::new(name, Unit::Nanoseconds, None, vec![1500.0; 10]);
            run.metrics.extend(metric);
        }
        let page = page(&run);
        for part in [
            "name=\"viewport\" content=\"width=device-width",
            "prefers-color-scheme:dark",
            "max-width:640px",
            "@media print",
        ] {
            assert!(page.contains(part), "{part}");
        }
        // Each picture is there for both widths; the narrow one fits 400 pixels, and either a page of paper.
        let pictures: Vec<&str> = page.split("<div class=\"").skip(1).collect();
        let of = |class: &str| pictures.iter().filter(|p| p.starts_with(class)).count();
        assert_eq!((of("broad\""), of("narrow\"")), (3, 3));
        let number = |picture: &str, name: &str| -> u32 {
            let at = picture.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
            picture[at..].split('"').next().unwrap().parse().unwrap()
        };
        for picture in pictures.iter().filter(|p| p.contains("<svg")) {
            let (width, height) = (number(picture, "<svg width"), number(picture, "height"));
            assert!(height <= 900, "{height}");
            assert!(picture.starts_with("broad") || width <= 368, "{width}");
        }
    }
}

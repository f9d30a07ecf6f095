// SPDX-License-Identifier: GPL-2.0
//! A run as one page of HTML that needs nothing else: tables, and pictures in SVG.

use std::fmt::Write;

use crate::{
    chart,
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
@media screen and (prefers-color-scheme:dark){svg [fill=\"#005AB5\"]{fill:#5aa9ff}\
svg [stroke=\"#005AB5\"]{stroke:#5aa9ff}svg [fill=\"#DC3220\"]{fill:#ff7a66}}\
.narrow{display:none}\
@media screen and (max-width:640px){.broad{display:none}.narrow{display:block}}\
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--line:#bbb;--bad:#b00020}body{max-width:none;margin:0}\
svg,tr{break-inside:avoid}.wide{overflow:visible}td,th{padding:1px 4px;font-size:8pt}}";

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
         <style>{STYLE}</style><body>{body}</body></html>\n",
        escaped(device)
    )
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
        for picture in [chart::distributions, chart::against_size] {
            for (class, layout) in [("broad", &chart::BROAD), ("narrow", &chart::NARROW)] {
                if let Some(svg) = picture(&of_unit, layout) {
                    let _ = write!(body, "<div class=\"{class}\">{svg}</div>");
                }
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
        // A picture for each width.
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("byte 3 is wrong"));
        assert!(page.contains("<td>fault/x<td>faults<td>40<td>52<td>12"));
    }
}

// SPDX-License-Identifier: GPL-2.0
//! Pictures, as SVG: where the samples of metrics lie, what a size costs, and values side by side.

use std::collections::BTreeMap;

use plotters::{coord::Shift, prelude::*};

use crate::run::{Metric, Run, Unit};

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// How much room there is, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    width: u32,
    /// The height of a row.
    row: u32,
    /// The room for titles left of the rows. If there is none, they stand above what they are of.
    left: u32,
    /// The room for a scale left of a chart that has no rows.
    scale: u32,
    /// The size of letters.
    text: i32,
    /// About how many numbers a scale from left to right has.
    labels: usize,
}

/// For a page or a screen of ordinary width.
pub const BROAD: Layout = Layout {
    width: 860,
    row: 20,
    left: 340,
    scale: 80,
    text: 12,
    labels: 8,
};

/// For a narrow screen: 400 pixels with the margins.
pub const NARROW: Layout = Layout {
    width: 360,
    row: 34,
    left: 0,
    scale: 64,
    text: 14,
    labels: 3,
};

/// The room for a scale below a chart.
const BELOW: u32 = 40;

/// The colours of a series: told apart also by those who see red and green alike.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(26, 133, 55),
    RGBColor(153, 79, 0),
    RGBColor(93, 58, 155),
    RGBColor(120, 120, 120),
];

/// The same on a dark screen, as HTML has them.
pub(crate) const ON_DARK: [&str; 6] = [
    "#5AA9FF", "#FF7A66", "#4CC26E", "#D9924A", "#B397F0", "#A8A8A8",
];

/// The colours of the pictures as SVG writes them, with those for a dark screen.
pub(crate) fn on_dark() -> impl Iterator<Item = (String, &'static str)> {
    let written = |RGBColor(r, g, b)| format!("#{r:02X}{g:02X}{b:02X}");
    COLOURS.map(written).into_iter().zip(ON_DARK)
}

/// Draws on an empty picture of `width` and `height`.
///
/// # Panics
///
/// If the backend fails, which one that writes into a string cannot.
fn draw(
    width: u32,
    height: u32,
    paint: impl for<'a> FnOnce(&DrawingArea<SVGBackend<'a>, Shift>) -> Drawn<'a>,
) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        area.fill(&WHITE)
            .and_then(|()| paint(&area))
            .and_then(|()| area.present())
            .expect("drawing into a string");
    }
    svg
}

/// A range on a logarithmic scale that holds all of `values`; those that are not above zero are left out.
fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let (low, high) = values
        .filter(|v| *v > 0.0)
        .fold((f64::MAX, 0.0f64), |(low, high), v| {
            (low.min(v), high.max(v))
        });
    (high > 0.0).then(|| low / 1.3..high * 1.3)
}

/// How many rows a picture has at most: a page of paper holds it, and a screen shows its scale with it.
const ROWS: usize = 24;

/// A line for each metric, all of one unit: from the least to the most, thick from the median to the 99th
/// percentile, or to the 90th if there is no higher one. Of many metrics there are several pictures of one scale; none
/// if there is nothing above zero.
pub fn distributions(metrics: &[&Metric], layout: &Layout) -> Vec<String> {
    let summaries = metrics.iter().flat_map(|m| [m.summary.min, m.summary.max]);
    let Some(range) = range(summaries) else {
        return Vec::new();
    };
    let pictures = metrics.len().div_ceil(ROWS);
    metrics
        .chunks(metrics.len().div_ceil(pictures))
        .map(|part| rows(part, layout, range.clone()))
        .collect()
}

/// One picture of them.
fn rows(metrics: &[&Metric], layout: &Layout, range: std::ops::Range<f64>) -> String {
    let (unit, floor) = (metrics[0].unit, range.start);
    let height = layout.row * metrics.len() as u32 + BELOW;
    // Below the title, if that is not beside it.
    let middle = if layout.left > 0 { 0.5 } else { 0.75 };
    draw(layout.width, height, |area| {
        let mut chart = scale(area, layout, metrics.len(), range, unit)?;
        for (row, metric) in metrics.iter().enumerate() {
            let (y, d) = (row as f64 + middle, &metric.summary);
            let at = |x: f64| (x.max(floor), y);
            let thin = COLOURS[0].stroke_width(1);
            let thick = COLOURS[0].stroke_width(6);
            chart.draw_series([PathElement::new(vec![at(d.min), at(d.max)], thin)])?;
            let upper = d.p99.or(d.p90).unwrap_or(d.p50);
            chart.draw_series([PathElement::new(vec![at(d.p50), at(upper)], thick)])?;
            chart.draw_series([Circle::new(at(d.p50), 4, COLOURS[1].filled())])?;
            let rare = d.p999.map(|x| Circle::new(at(x), 3, COLOURS[0].filled()));
            chart.draw_series(rare)?;
        }
        titles(area, layout, metrics.iter().map(|m| m.name.as_str()))
    })
}

/// All pictures of a run, for a page of ordinary width or a paper, by the names of their files.
pub fn pictures(run: &Run) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for suite in run.suites() {
        for unit in Unit::ALL {
            let metrics = run.metrics.iter();
            let of_unit: Vec<_> = metrics
                .filter(|metric| metric.suite() == suite && metric.unit == unit)
                .collect();
            let unit = unit.name();
            for (number, svg) in distributions(&of_unit, &BROAD).into_iter().enumerate() {
                let part = match number {
                    0 => String::new(),
                    _ => format!("-{}", number + 1),
                };
                pictures.push((format!("{suite}-distributions-{unit}{part}.svg"), svg));
            }
            let sizes = against_size(&of_unit, &BROAD);
            pictures.extend(sizes.map(|svg| (format!("{suite}-sizes-{unit}.svg"), svg)));
        }
    }
    pictures
}

type Scaled<'a, 'b> = ChartContext<
    'b,
    SVGBackend<'a>,
    Cartesian2d<LogCoord<f64>, plotters::coord::types::RangedCoordf64>,
>;

/// A chart of `rows` with amounts of `unit` from left to right.
fn scale<'a, 'b>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    layout: &Layout,
    rows: usize,
    range: std::ops::Range<f64>,
    unit: Unit,
) -> Result<Scaled<'a, 'b>, DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let mut chart = ChartBuilder::on(area)
        .margin_right(24)
        .set_label_area_size(LabelAreaPosition::Left, layout.left)
        .set_label_area_size(LabelAreaPosition::Bottom, BELOW)
        .build_cartesian_2d(range.log_scale(), rows as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(layout.labels)
        .x_label_formatter(&|x| unit.show(*x))
        .label_style(("sans-serif", layout.text))
        .light_line_style(WHITE)
        .draw()?;
    Ok(chart)
}

/// The titles of rows, left of the chart or above each row.
fn titles<'a, 't>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    layout: &Layout,
    titles: impl Iterator<Item = &'t str>,
) -> Drawn<'a> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let beside = layout.left > 0;
    let (side, x) = match beside {
        true => (HPos::Right, layout.left as i32 - 8),
        false => (HPos::Left, 2),
    };
    let style = ("sans-serif", layout.text)
        .into_text_style(area)
        .pos(Pos::new(side, VPos::Center));
    for (row, title) in titles.enumerate() {
        let top = layout.row as i32 * row as i32;
        let y = top
            + if beside {
                layout.row as i32 / 2
            } else {
                layout.text - 2
            };
        area.draw_text(title, &style, (x, y))?;
    }
    Ok(())
}

/// What a size costs: a line for each series of metrics that differ in their size only. Both scales are
/// logarithmic. None if there is no such series.
pub fn against_size(metrics: &[&Metric], layout: &Layout) -> Option<String> {
    let unit = metrics.first()?.unit;
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for metric in metrics {
        let point = metric.size.map(|size| (size as f64, metric.summary.p50));
        if let Some((size, cost)) = point.filter(|(size, cost)| *size > 0.0 && *cost > 0.0) {
            let name = metric.name.rsplit_once('/').map_or("", |(name, _)| name);
            series.entry(name.into()).or_default().push((size, cost));
        }
    }
    series.retain(|_, points| points.len() > 1);
    let points = || series.values().flatten();
    let (sizes, costs) = (range(points().map(|p| p.0))?, range(points().map(|p| p.1))?);
    Some(draw(layout.width, 360, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .set_label_area_size(LabelAreaPosition::Left, layout.scale)
            .set_label_area_size(LabelAreaPosition::Bottom, BELOW)
            .build_cartesian_2d(sizes.log_scale().base(2.0), costs.log_scale())?;
        chart
            .configure_mesh()
            .x_labels(layout.labels)
            .x_label_formatter(&|x| Unit::Bytes.show(*x))
            .y_label_formatter(&|y| unit.show(*y))
            .label_style(("sans-serif", layout.text))
            .light_line_style(WHITE)
            .draw()?;
        for (number, (name, points)) in series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            chart
                .draw_series(
                    LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
                )?
                .label(name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled())
                });
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", layout.text))
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::UpperLeft)
            .draw()
    }))
}

/// A row of bars: a title, and a value for each name of the legend, if there is one.
#[derive(Clone, Debug)]
pub struct Bars {
    /// The title.
    pub title: String,
    /// The values, in the order of the legend.
    pub values: Vec<Option<f64>>,
}

/// Values side by side on one logarithmic scale. None if there is nothing above zero.
pub fn bars(legend: &[&str], rows: &[Bars], unit: Unit) -> Option<String> {
    let values = rows.iter().flat_map(|row| row.values.iter().flatten());
    let mut range = range(values.copied())?;
    range.start /= 2.0;
    let floor = range.start;
    let layout = &BROAD;
    let height = layout.row * (rows.len() as u32 + 2) + BELOW;
    Some(draw(layout.width, height, |area| {
        let (head, body) = area.split_vertically(2 * layout.row);
        for (number, name) in legend.iter().enumerate() {
            let x = layout.left as i32 + 150 * number as i32;
            let colour = COLOURS[number % COLOURS.len()];
            head.draw(&Rectangle::new([(x, 12), (x + 14, 24)], colour.filled()))?;
            let style = ("sans-serif", layout.text).into_text_style(area);
            head.draw_text(name, &style, (x + 20, 12))?;
        }
        let mut chart = scale(&body, layout, rows.len(), range, unit)?;
        for (row, bars) in rows.iter().enumerate() {
            let thick = 0.8 / legend.len().max(1) as f64;
            for (number, value) in bars.values.iter().enumerate() {
                let Some(value) = value.filter(|v| *v > 0.0) else {
                    continue;
                };
                let top = row as f64 + 0.1 + thick * number as f64;
                let corners = [(floor, top), (value, top + thick)];
                let colour = COLOURS[number % COLOURS.len()].filled();
                chart.draw_series([Rectangle::new(corners, colour)])?;
            }
        }
        titles(&body, layout, rows.iter().map(|row| row.title.as_str()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, size: Option<u64>, sample: f64) -> Metric {
        Metric::new(name, Unit::Nanoseconds, size, vec![sample; 5]).unwrap()
    }

    #[test]
    fn a_row_for_each_metric() {
        let (a, b) = (metric("a/x", None, 100.0), metric("a/y", None, 0.0));
        let svg = distributions(&[&a, &b], &BROAD).remove(0);
        assert!(svg.starts_with("<svg") && svg.contains("a/x") && svg.contains("a/y"));
        let narrow = distributions(&[&a, &b], &NARROW).remove(0);
        assert!(narrow.starts_with("<svg width=\"360\"") && narrow.contains("a/x"));
        assert!(distributions(&[&b], &BROAD).is_empty());
        assert!(distributions(&[], &BROAD).is_empty());
    }

    #[test]
    fn many_rows_are_several_pictures_of_one_scale() {
        let many: Vec<_> = (0..2 * ROWS + 1)
            .map(|i| metric(&format!("a/{i}x"), None, 10f64.powi(i as i32 % 5)))
            .collect();
        let pictures = distributions(&many.iter().collect::<Vec<_>>(), &BROAD);
        assert_eq!(pictures.len(), 3);
        for (number, picture) in pictures.iter().enumerate() {
            assert!(picture.contains(&format!("a/{}x", number * 17)));
            assert!(picture.contains("1.00 µs"), "{picture}");
        }
    }

    #[test]
    fn a_line_for_each_series() {
        let sized: Vec<_> = (12..20)
            .map(|bits| metric(&format!("r/p/{bits}"), Some(1 << bits), f64::from(bits)))
            .collect();
        let all: Vec<_> = sized.iter().collect();
        assert!(against_size(&all, &BROAD).unwrap().contains("r/p"));
        assert_eq!(against_size(&all[..1], &NARROW), None);
    }

    #[test]
    fn each_suite_and_unit_has_its_files() {
        let mut run = Run::new(false, BTreeMap::new());
        for bits in 12..15 {
            run.metrics
                .push(metric(&format!("warm/x/{bits}"), Some(1 << bits), 7.0));
        }
        let rate = Metric::new("warm/y", Unit::BytesPerSecond, None, vec![1e6; 5]);
        run.metrics.extend(rate);
        run.metrics.push(metric("fault/x", None, 3.0));
        let pictures = pictures(&run);
        let names: Vec<_> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "warm-distributions-nanoseconds.svg",
                "warm-sizes-nanoseconds.svg",
                "warm-distributions-bytes-per-second.svg",
                "fault-distributions-nanoseconds.svg"
            ]
        );
        for (name, svg) in &pictures {
            assert!(svg.starts_with("<svg") && svg.contains("xmlns="), "{name}");
            assert!(svg.trim_end().ends_with("</svg>"), "{name}");
        }
    }

    #[test]
    fn missing_bars_are_left_out() {
        let rows = [Bars {
            title: "registration".into(),
            values: vec![Some(10.0), None],
        }];
        let svg = bars(&["ours", "C"], &rows, Unit::Nanoseconds).unwrap();
        assert!(svg.contains("registration") && svg.contains("ours"));
    }
}

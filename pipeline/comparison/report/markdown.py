"""A report in Markdown, for a README or a description."""

from __future__ import annotations

from pipeline.common.table import Table
from pipeline.comparison.report.report import Report


def markdown_page(report: Report) -> str:
    """Answers, tables and controls."""
    parts = [f"**{report.answer}**", *(f"Mind: {warning}." for warning in report.warnings)]
    if report.contrasts is not None:
        parts.append(markdown_table(report.contrasts).strip())
    for section in report.sections:
        parts += [f"## {section.group.title}"] if len(report.sections) > 1 else []
        parts += [section.conclusion] if section.conclusion is not None else []
        parts.append(markdown_table(section.arms).strip())
        if section.group.comparisons:
            parts.append(markdown_table(section.comparisons).strip())
            parts += [markdown_table(section.sizes).strip()] if section.sizes.rows else []
            parts += [markdown_table(table).strip() for table in section.ways]
        parts += [markdown_table(table).strip() for table in section.scores]
        parts += [section.control, *(f"Left out: {line}." for line in section.group.left_out)]
    return "\n\n".join([*parts, report.limits]) + "\n"


def answer_of(page: str) -> str:
    """The answer, from what `markdown_page` has written."""
    return page.partition("\n\n")[0].removeprefix("**").removesuffix("**")


def markdown_table(table: Table) -> str:
    """A table, and below it its caption."""
    lines = [" | ".join(heading for heading, _ in table.headings)]
    lines.append(" | ".join("---:" if number else "---" for _, number in table.headings))
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return "\n".join(f"| {line} |" for line in lines) + (f"\n\n{table.caption}\n" if table.caption else "\n")

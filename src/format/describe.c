/* SPDX-License-Identifier: Apache-2.0 */
/* What a patch contains, as text for people: `suture show`. */
#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/format.h"
#include "format/listing.h"

/* A hostile patch must not make us write without end. */
enum { MAX_DESCRIPTION = 64 << 20 };

/* ---- summary ---- */

/* "line one\nline two" with an indent before every line. */
static void print_indented(FILE *out, const char *text)
{
	while (text && *text) {
		size_t n = strcspn(text, "\n");

		fprintf(out, "  %.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	}
}

static void print_payload(FILE *out, const struct patch *p)
{
	uint64_t code = 0, constant = 0, data = 0;

	vec_foreach (s, &p->sections) {
		if (s->flags & SHF_EXECINSTR)
			code += s->size;
		else if (s->flags & SHF_WRITE)
			data += s->size;
		else
			constant += s->size;
	}
	fprintf(out,
		"  payload     %" PRIu64 " bytes of code, %" PRIu64 " constant, %" PRIu64
		" writable\n",
		code, constant, data);
}

static void print_head(FILE *out, const struct patch *p)
{
	char id[ID_HEX_SIZE + 1];

	hex_encode(id, p->id, sizeof(p->id));
	fprintf(out, "%s %s\n", p->name, p->version);
	print_indented(out, p->description);
	for (size_t i = 0; i < p->references.n; i++)
		fprintf(out, "  %-11s %s\n", i ? "" : "references", p->references.at[i]);
	fprintf(out, "  id          %s\n", id);
	fprintf(out, "  made by     %s%s%s\n", p->created_by, p->compiler ? ", " : "",
		p->compiler ? p->compiler : "");
	print_payload(out, p);
}

static void print_images(FILE *out, const struct patch *p)
{
	fprintf(out, "\nimages\n");
	vec_foreach (image, &p->images) {
		char hex[2 * PATCH_BUILD_ID_MAX + 1];

		hex_encode(hex, image->build_id, image->build_id_size);
		fprintf(out, "  %-24s build-id %s%s\n", image->name, hex,
			image->fixed ? ", at a fixed address" : "");
	}
}

static void print_function(FILE *out, const struct patch *p, const struct patch_function *f)
{
	char size[48];

	if (f->address)
		snprintf(size, sizeof(size), "%" PRIu64 " -> %" PRIu64 " bytes", f->size,
			f->new_size);
	else
		snprintf(size, sizeof(size), "%" PRIu64 " bytes, new", f->new_size);
	fprintf(out, "  %-32s %-20s %-22s %s%s%s%s\n", f->name, p->images.at[f->image].name, size,
		f->reason ? f->reason : "", f->unit ? " [" : "", f->unit ? f->unit : "",
		f->unit ? "]" : "");
}

static void print_functions(FILE *out, const struct patch *p)
{
	fprintf(out, "\nfunctions\n");
	vec_foreach (f, &p->functions)
		print_function(out, p, f);
}

static const char *thing(uint8_t elf_type)
{
	switch (elf_type) {
	case STT_FUNC:
		return "function";
	case STT_OBJECT:
		return "data";
	case STT_TLS:
		return "thread-local variable";
	case STT_GNU_IFUNC:
		return "indirect function";
	default:
		return "symbol";
	}
}

static void print_external(FILE *out, const struct patch *p, const struct patch_symbol *s)
{
	fprintf(out, "  %-32s %-20s %s ", s->name, p->images.at[s->image].name, thing(s->elf_type));
	switch (s->kind) {
	case PATCH_SYMBOL_ADDRESS:
		fprintf(out, "at 0x%" PRIx64 "\n", s->value);
		break;
	case PATCH_SYMBOL_TLS:
		fprintf(out, "at TLS offset 0x%" PRIx64 "\n", s->value);
		break;
	default:
		fprintf(out, "as the dynamic linker finds it%s%s%s\n",
			s->version ? ", version " : "", s->version ? s->version : "",
			s->weak ? ", may be absent" : "");
	}
}

static void print_externals(FILE *out, const struct patch *p)
{
	bool first = true;

	vec_foreach (s, &p->symbols) {
		if (s->kind == PATCH_SYMBOL_PAYLOAD)
			continue;
		if (first)
			fprintf(out, "\nreferences into the images\n");
		first = false;
		print_external(out, p, s);
	}
}

static void print_expects(FILE *out, const struct patch *p)
{
	if (p->expects.n)
		fprintf(out, "\ncode that must be there unchanged\n");
	vec_foreach (e, &p->expects)
		fprintf(out, "  %-32s %-20s 0x%" PRIx64 ", %" PRIu64 " bytes\n", e->name,
			p->images.at[e->image].name, e->address, e->size);
}

/* ---- old against new ---- */

static void print_line(FILE *out, char mark, const struct line *line)
{
	char offset[16];

	snprintf(offset, sizeof(offset), "+0x%x", line->offset);
	fprintf(out, "%c %8s  %s\n", mark, offset, line->text);
}

static void print_matched(FILE *out, const struct listing *a, size_t i, const struct listing *b,
	const uint32_t *match)
{
	const struct line *x = &a->lines.at[i], *y = &b->lines.at[match[i]];
	char offset[16];

	switch (listing_compare(a, i, b, match)) {
	case LINE_SAME:
		print_line(out, ' ', y);
		break;
	case LINE_DIFFERS:
		print_line(out, '-', x);
		print_line(out, '+', y);
		break;
	case LINE_UNKNOWN:
		snprintf(offset, sizeof(offset), "+0x%x", y->offset);
		fprintf(out, "~ %8s  %s  =>  %s\n", offset, x->text, y->text);
		break;
	}
}

static void print_left_out(FILE *out, char mark, const struct listing *l)
{
	if (l->left_out)
		fprintf(out, "%c           ... %zu more bytes\n", mark, l->left_out);
}

static void print_aligned(
	FILE *out, const struct listing *a, const struct listing *b, const uint32_t *match)
{
	size_t k = 0;

	for (size_t i = 0; i < a->lines.n; i++) {
		if (match[i] == LINE_UNMATCHED) {
			print_line(out, '-', &a->lines.at[i]);
			continue;
		}
		while (k < match[i])
			print_line(out, '+', &b->lines.at[k++]);
		print_matched(out, a, i, b, match);
		k++;
	}
	print_left_out(out, '-', a);
	while (k < b->lines.n)
		print_line(out, '+', &b->lines.at[k++]);
	print_left_out(out, '+', b);
}

static struct suture_error *print_diff(
	FILE *out, const struct patch *p, const struct names *names, const struct patch_function *f)
{
	_cleanup_(listing_deinit) struct listing before = {}, after = {};
	_cleanup_free_ uint32_t *match = NULL;

	fprintf(out, "\n@@ %s, %s", f->name, p->images.at[f->image].name);
	if (f->address)
		fprintf(out, ", 0x%" PRIx64 ": %" PRIu64 " -> %" PRIu64 " bytes, detour at +0x%x",
			f->address, f->size, f->new_size, f->site);
	else
		fprintf(out, ": new, %" PRIu64 " bytes", f->new_size);
	fprintf(out, " @@\n");
	if (f->address)
		TRY(listing_old(p, names, f, &before));
	TRY(listing_new(p, f, &after));
	TRY(listing_align(&before, &after, &match));
	print_aligned(out, &before, &after, match);
	return NULL;
}

static struct suture_error *print_diffs(FILE *out, const struct patch *p)
{
	_cleanup_(names_destroyp) struct names *names = NULL;

	TRY(names_create(p, &names));
	fprintf(out, "\n'-' old, '+' new, '~' the same instruction on something that the patch "
		     "itself has no old name for\n");
	vec_foreach (f, &p->functions) {
		if (ftell(out) > MAX_DESCRIPTION) {
			fprintf(out, "\n... and more: too long to show\n");
			return NULL;
		}
		TRY(error_wrap(print_diff(out, p, names, f), "%s", f->name));
	}
	return NULL;
}

struct suture_error *suture_patch_describe(
	struct suture *ctx, const struct suture_patch *handle, bool diff, char **ret)
{
	const struct patch *p = handle->patch;
	_cleanup_free_ char *text = NULL;
	struct suture_error *err = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)ctx;
	if (!out)
		return error_nomem();
	print_head(out, p);
	print_images(out, p);
	print_functions(out, p);
	print_externals(out, p);
	print_expects(out, p);
	if (diff)
		err = print_diffs(out, p);
	if (fclose(out) && !err)
		err = error_nomem();
	if (err)
		return err;
	*ret = take(text);
	return NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Following #include lines: see includes.h. Files are nodes, an edge goes from a file to every
 * file that one of its #include lines may mean; then we walk backwards from the changed files.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/cflags.h"
#include "build/diff.h"
#include "build/includes.h"
#include "build/path.h"
#include "build/strmap.h"

struct node {
	char *path;  /* physical */
	size_t next; /* another node with this base name; SIZE_MAX: none */
	bool scanned;
	bool computed; /* has an #include of a macro */
	bool reaches;  /* may include a changed file, or is one */
	VEC(size_t) included_by;
};

/* A macro that may stand for the name of a header. */
struct macro {
	struct strings names; /* what it is defined as somewhere */
	bool opaque;	      /* ... and once as something that we do not compute */
};

/* #include MACRO */
struct use {
	size_t node;
	char *macro;
};

struct scan {
	VEC(struct node) nodes;
	VEC(struct macro) macros;
	struct strmap by_macro; /* name -> macro */
	VEC(struct use) uses;
	struct strmap by_path; /* path -> node */
	struct strmap by_name; /* base name -> first node of that name */
	struct strmap outside; /* include names looked up outside the trees */
	struct strings dirs;   /* directories outside the trees that are searched */
	VEC(size_t) todo;
	bool links; /* the trees have links to directories: only base names are sure */
};

static void scan_deinit(struct scan *scan)
{
	vec_foreach (node, &scan->nodes) {
		free(node->path);
		vec_free(&node->included_by);
	}
	vec_free(&scan->nodes);
	vec_foreach (macro, &scan->macros)
		strings_deinit(&macro->names);
	vec_free(&scan->macros);
	vec_foreach (use, &scan->uses)
		free(use->macro);
	vec_free(&scan->uses);
	strmap_deinit(&scan->by_macro);
	strmap_deinit(&scan->by_path);
	strmap_deinit(&scan->by_name);
	strmap_deinit(&scan->outside);
	strings_deinit(&scan->dirs);
	vec_free(&scan->todo);
}

/* ---- nodes ---- */

/* The node of a physical path, made if need be; also found under base name `name`. */
static struct suture_error *add_node(struct scan *scan, const char *path, size_t *ret)
{
	size_t known = scan->nodes.n;
	size_t *index = strmap_add(&scan->by_path, path, known);

	if (!index)
		return error_nomem();
	*ret = *index;
	if (*index != known)
		return NULL;
	struct node *node = vec_add(&scan->nodes);
	if (!node)
		return error_nomem();
	node->path = strdup(path);
	size_t *first = strmap_add(&scan->by_name, path_basename(path), SIZE_MAX);
	if (!node->path || !first)
		return error_nomem();
	node->next = *first;
	*first = known;
	return NULL;
}

/* A link is the file that it leads to; under another name it needs a node of its own. */
static struct suture_error *add_link(struct scan *scan, const char *path)
{
	_cleanup_free_ char *target = realpath(path, NULL);
	size_t link, node;

	if (!target)
		return NULL;
	if (path_is_directory(target)) {
		scan->links = true;
		return NULL;
	}
	TRY(add_node(scan, target, &node));
	TRY(add_node(scan, path, &link));
	return vec_push(&scan->nodes.at[node].included_by, link) ? NULL : error_nomem();
}

static struct suture_error *add_trees(struct scan *scan, const struct tree *trees, size_t n)
{
	size_t index;

	for (size_t i = 0; i < n; i++) {
		vec_foreach (entry, &trees[i].entries) {
			if (entry->type == DT_LNK)
				TRY(add_link(scan, entry->path));
			else if (entry->type == DT_REG)
				TRY(add_node(scan, entry->path, &index));
		}
	}
	return NULL;
}

/* ---- edges ---- */

static struct suture_error *visit(struct scan *scan, size_t node)
{
	if (scan->nodes.at[node].scanned)
		return NULL;
	scan->nodes.at[node].scanned = true;
	return vec_push(&scan->todo, node) ? NULL : error_nomem();
}

/* "../a/./x.h" ends with "a/x.h". malloc'ed. */
static char *normalise(const char *name)
{
	char *out = path_join("/", name);

	if (out)
		memmove(out, out + 1, strlen(out));
	return out;
}

/* A header that is in none of the trees may still lead back into them. */
static struct suture_error *include_outside(struct scan *scan, size_t from, const char *name)
{
	size_t before = scan->outside.n, node;

	if (!strmap_add(&scan->outside, name, from))
		return error_nomem();
	if (scan->outside.n == before)
		return NULL;
	vec_foreach (dir, &scan->dirs.v) {
		_cleanup_free_ char *path = path_join(*dir, name);

		if (!path)
			return error_nomem();
		if (!path_is_file(path))
			continue;
		TRY(add_node(scan, path, &node));
	}
	return NULL;
}

static struct suture_error *add_edge(struct scan *scan, size_t from, const char *name)
{
	_cleanup_free_ char *tail = normalise(name);

	if (!tail)
		return error_nomem();
	if (scan->dirs.v.n)
		TRY(include_outside(scan, from, name));
	const size_t *first = strmap_find(&scan->by_name, path_basename(tail));
	for (size_t i = first ? *first : SIZE_MAX; i != SIZE_MAX; i = scan->nodes.at[i].next) {
		if (!scan->links && !path_ends_with(scan->nodes.at[i].path, tail))
			continue;
		if (!vec_push(&scan->nodes.at[i].included_by, from))
			return error_nomem();
		TRY(visit(scan, i));
	}
	return NULL;
}

/* ---- #include lines ---- */

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	return p;
}

static size_t word_length(const char *p, const char *end)
{
	size_t n = 0;

	while (p + n < end && (isalnum((unsigned char)p[n]) || p[n] == '_'))
		n++;
	return n;
}

/* "x.h" or <x.h>: the name without quotes. *ret is NULL when it is something else. */
static struct suture_error *header_name(const char *p, const char *end, char **ret)
{
	const char *close = NULL;

	*ret = NULL;
	if (p < end && (*p == '"' || *p == '<'))
		close = memchr(p + 1, *p == '"' ? '"' : '>', end - p - 1);
	if (!close)
		return NULL;
	*ret = strndup(p + 1, close - p - 1);
	return *ret ? NULL : error_nomem();
}

/* A definition of `name` (n bytes) as what stands at p. */
static struct suture_error *define(
	struct scan *scan, const char *name, size_t n, const char *p, const char *end)
{
	_cleanup_free_ char *key = NULL, *header = NULL;

	p = skip_blanks(p, end);
	/* Numbers and nothing at all name no header. */
	if (p == end || !(isalpha((unsigned char)*p) || strchr("_\"<\\", *p)))
		return NULL;
	TRY(header_name(p, end, &header));
	key = strndup(name, n);
	if (!key)
		return error_nomem();
	size_t *at = strmap_add(&scan->by_macro, key, scan->macros.n);
	if (!at || (*at == scan->macros.n && !vec_add(&scan->macros)))
		return error_nomem();
	struct macro *macro = &scan->macros.at[*at];
	macro->opaque |= !header;
	return header ? strings_take(&macro->names, take(header)) : NULL;
}

static struct suture_error *define_directive(struct scan *scan, const char *p, const char *end)
{
	size_t n = word_length(p, end);

	/* "#define F(x)" makes no name that "#include F" could mean. */
	if (n && p + n < end && p[n] != '(')
		return define(scan, p, n, p + n, end);
	return NULL;
}

/* -DNAME="x.h" */
static struct suture_error *define_option(struct scan *scan, const char *option)
{
	const char *equals = strchr(option, '=');

	if (!equals)
		return NULL;
	return define(scan, option, equals - option, equals + 1, option + strlen(option));
}

static struct suture_error *include_directive(
	struct scan *scan, size_t from, const char *p, const char *end)
{
	_cleanup_free_ char *name = NULL;
	size_t n = word_length(p, end);

	TRY(header_name(p, end, &name));
	if (name)
		return add_edge(scan, from, name);
	const char *behind = skip_blanks(p + n, end);
	if (!n || (behind < end && *behind == '(')) {
		scan->nodes.at[from].computed = true;
		return NULL;
	}
	struct use use = {from, strndup(p, n)};
	if (use.macro && vec_push(&scan->uses, use))
		return NULL;
	free(use.macro);
	return error_nomem();
}

static bool word_is(const char *p, size_t n, const char *word)
{
	return n == strlen(word) && memcmp(p, word, n) == 0;
}

/* `p` is behind the '#' of a directive that ends at `end`. */
static struct suture_error *directive(
	struct scan *scan, size_t from, const char *p, const char *end)
{
	p = skip_blanks(p, end);
	size_t n = word_length(p, end);
	const char *rest = skip_blanks(p + n, end);

	if (word_is(p, n, "include") || word_is(p, n, "include_next") || word_is(p, n, "import"))
		return include_directive(scan, from, rest, end);
	if (word_is(p, n, "define"))
		return define_directive(scan, rest, end);
	return NULL;
}

static struct suture_error *scan_text(struct scan *scan, size_t from, const char *text, size_t size)
{
	const char *end = text + size, *p = text;

	while ((p = memchr(p, '#', end - p))) {
		const char *line = p, *nl = memchr(p, '\n', end - p);

		while (line > text && (line[-1] == ' ' || line[-1] == '\t'))
			line--;
		p++;
		/* Also behind a comment that ends on this line. */
		if (line == text || line[-1] == '\n' || line[-1] == '/')
			TRY(directive(scan, from, p, nl ? nl : end));
	}
	return NULL;
}

static struct suture_error *scan_file(struct scan *scan, size_t node)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct suture_error *err =
		path_read_file(scan->nodes.at[node].path, DIFF_MAX_SIZE, &text, &size);

	/* A file the fix brings, or one that a compile could not read either. */
	if (err) {
		suture_error_destroy(err);
		return NULL;
	}
	return scan_text(scan, node, text, size);
}

/* ---- commands ---- */

static bool in_trees(const char *path, const struct tree *trees, size_t n_trees)
{
	for (size_t i = 0; i < n_trees; i++) {
		if (path_under(path, trees[i].root))
			return true;
	}
	return false;
}

/* Directories of -I outside the trees; the system's own headers include none of ours. */
static struct suture_error *add_dirs(struct scan *scan, const struct command *cmd,
	const struct strings *dirs, const struct tree *trees, size_t n_trees, struct strmap *seen)
{
	vec_foreach (dir, &dirs->v) {
		_cleanup_free_ char *path = path_join(cmd->directory, *dir);
		size_t before = seen->n;

		if (!path || !strmap_add(seen, path, 0))
			return error_nomem();
		if (seen->n == before)
			continue;
		_cleanup_free_ char *physical = path_physical(path);
		if (!physical)
			return error_nomem();
		if (!in_trees(physical, trees, n_trees) && !path_under(physical, "/usr"))
			TRY(strings_take(&scan->dirs, take(physical)));
	}
	return NULL;
}

static struct suture_error *add_command(struct scan *scan, const struct command *cmd,
	const struct tree *trees, size_t n_trees, struct strmap *seen)
{
	_cleanup_strings_ struct strings files = {}, dirs = {}, defines = {};
	size_t node;

	TRY(add_node(scan, cmd->physical, &node));
	TRY(visit(scan, node));
	if (cmd->broken)
		return NULL;
	TRY(cflags_includes(cmd, &files, &dirs, &defines));
	vec_foreach (option, &defines.v)
		TRY(define_option(scan, *option));
	TRY(add_dirs(scan, cmd, &dirs, trees, n_trees, seen));
	vec_foreach (file, &files.v)
		TRY(add_edge(scan, node, *file));
	return NULL;
}

/* ---- #include of a macro ---- */

static struct suture_error *resolve_use(struct scan *scan, const struct use *use)
{
	const size_t *at = strmap_find(&scan->by_macro, use->macro);

	/* Defined nowhere: the line is in a group that is not compiled. */
	if (!at)
		return NULL;
	const struct macro *macro = &scan->macros.at[*at];
	if (macro->opaque)
		scan->nodes.at[use->node].computed = true;
	for (size_t i = 0; i < macro->names.v.n; i++)
		TRY(add_edge(scan, use->node, macro->names.v.at[i]));
	return NULL;
}

/* Scan all that is reached; macros may lead to more files, and those define more macros. */
static struct suture_error *scan_all(struct scan *scan)
{
	for (;;) {
		while (scan->todo.n)
			TRY(scan_file(scan, scan->todo.at[--scan->todo.n]));
		for (size_t i = 0; i < scan->uses.n; i++)
			TRY(resolve_use(scan, &scan->uses.at[i]));
		if (!scan->todo.n)
			return NULL;
	}
}

/* ---- the answer ---- */

static struct suture_error *mark(struct scan *scan, size_t node)
{
	if (scan->nodes.at[node].reaches)
		return NULL;
	scan->nodes.at[node].reaches = true;
	return vec_push(&scan->todo, node) ? NULL : error_nomem();
}

static struct suture_error *walk_back(struct scan *scan, const struct strings *changed)
{
	vec_foreach (path, &changed->v)
		TRY(mark(scan, *strmap_find(&scan->by_path, *path)));
	for (size_t i = 0; i < scan->nodes.n; i++) {
		if (scan->nodes.at[i].computed)
			TRY(mark(scan, i));
	}
	while (scan->todo.n) {
		size_t node = scan->todo.at[--scan->todo.n];

		for (size_t i = 0; i < scan->nodes.at[node].included_by.n; i++)
			TRY(mark(scan, scan->nodes.at[node].included_by.at[i]));
	}
	return NULL;
}

/* What a call of includes_find() is about. */
struct question {
	const struct compdb *db;
	const struct strings *others;
	const struct tree *trees;
	size_t n_trees;
	const struct strings *changed;
};

static struct suture_error *add_sources(struct scan *scan, const struct question *q)
{
	_cleanup_strmap_ struct strmap seen = {};
	size_t node;

	vec_foreach (cmd, &q->db->commands)
		TRY(add_command(scan, cmd, q->trees, q->n_trees, &seen));
	vec_foreach (path, &q->others->v) {
		TRY(add_node(scan, *path, &node));
		TRY(visit(scan, node));
	}
	return NULL;
}

static bool reaches(const struct scan *scan, const char *path)
{
	const size_t *at = strmap_find(&scan->by_path, path);

	return at && scan->nodes.at[*at].reaches;
}

static struct suture_error *search(struct scan *scan, const struct question *q)
{
	size_t node;

	TRY(add_trees(scan, q->trees, q->n_trees));
	vec_foreach (path, &q->changed->v)
		TRY(add_node(scan, *path, &node));
	TRY(add_sources(scan, q));
	TRY(scan_all(scan));
	return walk_back(scan, q->changed);
}

static bool any_computed(const struct scan *scan)
{
	vec_foreach (node, &scan->nodes) {
		if (node->computed)
			return true;
	}
	return false;
}

struct suture_error *includes_find(const struct compdb *db, const struct strings *others,
	const struct tree *trees, size_t n_trees, const struct strings *changed, bool *ret,
	bool *ret_others, bool *ret_read)
{
	struct scan scan = {};
	struct question question = {db, others, trees, n_trees, changed};
	struct suture_error *err = search(&scan, &question);

	for (size_t i = 0; i < db->commands.n && !err; i++)
		ret[i] = reaches(&scan, db->commands.at[i].physical);
	for (size_t i = 0; i < others->v.n && !err; i++)
		ret_others[i] = reaches(&scan, others->v.at[i]);
	bool any = any_computed(&scan);
	for (size_t i = 0; i < changed->v.n && !err; i++)
		ret_read[i] =
			any || scan.nodes.at[*strmap_find(&scan.by_path, changed->v.at[i])].scanned;
	scan_deinit(&scan);
	return err;
}

/* ---- dependency files ---- */

/* "target: a.c b\ c.h \<newline> d.h": make's quoting as GCC and Clang write it. */
struct suture_error *includes_read_deps(const char *path, struct strings *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t size, n = 0;

	TRY(path_read_file(path, DIFF_MAX_SIZE, &text, &size));
	_cleanup_free_ char *word = malloc(size + 1);
	if (!word)
		return error_nomem();
	const char *p = strstr(text, ": ");
	for (p = p ? p + 2 : text + size;; p++) {
		bool quoted =
			(*p == '\\' && p[1] && strchr(" #\\", p[1])) || (*p == '$' && p[1] == '$');
		bool gap = *p == '\0' || *p == ' ' || *p == '\n' || (*p == '\\' && p[1] == '\n');

		if (gap && n) {
			TRY(strings_take(ret, strndup(word, n)));
			n = 0;
		}
		if (*p == '\0')
			return NULL;
		if (quoted)
			p++;
		if (!gap)
			word[n++] = *p;
	}
}

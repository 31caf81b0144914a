/* SPDX-License-Identifier: Apache-2.0 */
/* Taking command lines apart: see shell.h. */
#include <ctype.h>
#include <string.h>

#include "base/cleanup.h"
#include "build/path.h"
#include "build/shell.h"

#define RESPONSE_DEPTH	  10	      /* files naming files */
#define RESPONSE_MAX_SIZE (16u << 20) /* bytes */
#define RESPONSE_MAX_ARGS 1000000u

void strings_deinit(struct strings *strings)
{
	vec_foreach (s, &strings->v)
		free(*s);
	vec_free(&strings->v);
}

struct suture_error *strings_take(struct strings *strings, char *s)
{
	if (s && vec_push(&strings->v, s))
		return NULL;
	free(s);
	return error_nomem();
}

struct suture_error *strings_add(struct strings *strings, const char *s)
{
	return strings_take(strings, strdup(s));
}

/* A word under construction; the buffer has room for the whole input. */
struct word {
	char *buf;
	size_t n;
	bool started;
};

static struct suture_error *word_end(struct word *word, struct strings *ret)
{
	if (!word->started)
		return NULL;
	TRY(strings_take(ret, strndup(word->buf, word->n)));
	word->n = 0;
	word->started = false;
	return NULL;
}

/* In a response file a backslash always quotes; in a shell only these, inside "". */
static bool quotes_next(const char *p, char quote, bool shell)
{
	return !shell || (quote == '"' && strchr("$`\"\\\n", p[1]));
}

/* Behind an opening quote; returns where the closing one is, NULL without one. */
static const char *quoted(struct word *word, const char *p, char quote, bool shell)
{
	word->started = true;
	for (; *p && *p != quote; p++) {
		if (shell && quote == '"' && (*p == '`' || *p == '$'))
			return NULL;
		if (*p == '\\' && p[1] && quotes_next(p, quote, shell)) {
			p++;
			if (*p == '\n' && shell)
				continue;
		}
		word->buf[word->n++] = *p;
	}
	return *p ? p : NULL;
}

static struct suture_error *needs_shell(const char *p)
{
	return error_create(SUTURE_ERROR_COMPDB,
		"the command needs a shell to be understood, from \"%.20s\" on", p);
}

static struct suture_error *split(
	const char *command, struct word *word, bool shell, struct strings *ret)
{
	for (const char *p = command; *p; p++) {
		if (isspace((unsigned char)*p)) {
			TRY(word_end(word, ret));
		} else if (*p == '\'' || *p == '"') {
			const char *end = quoted(word, p + 1, *p, shell);

			if (!end)
				return needs_shell(p);
			p = end;
		} else if (*p == '\\' && p[1]) {
			p++;
			if (*p == '\n')
				continue;
			word->started = true;
			word->buf[word->n++] = *p;
		} else if (shell &&
			   (strchr("|&;<>()$`", *p) || (!word->started && strchr("#~", *p)))) {
			return needs_shell(p);
		} else {
			word->started = true;
			word->buf[word->n++] = *p;
		}
	}
	return word_end(word, ret);
}

static struct suture_error *split_words(const char *text, bool shell, struct strings *ret)
{
	_cleanup_free_ char *buf = malloc(strlen(text) + 1);
	struct word word = {.buf = buf};

	return buf ? split(text, &word, shell, ret) : error_nomem();
}

struct suture_error *shell_split(const char *command, struct strings *ret)
{
	_cleanup_strings_ struct strings words = {};

	TRY(split_words(command, true, &words));
	*ret = words;
	words = (struct strings){};
	return NULL;
}

static struct suture_error *expand(
	const char *arg, const char *directory, int depth, struct strings *ret)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	_cleanup_strings_ struct strings words = {};
	size_t size;

	if (arg[0] != '@')
		return strings_add(ret, arg);
	path = path_join(directory, arg + 1);
	if (!path)
		return error_nomem();
	if (!path_is_file(path))
		return strings_add(ret, arg);
	if (depth == RESPONSE_DEPTH || ret->v.n > RESPONSE_MAX_ARGS)
		return error_create(
			SUTURE_ERROR_COMPDB, "response file %s: too many files in files", path);
	TRY(path_read_file(path, RESPONSE_MAX_SIZE, &text, &size));
	TRY(error_wrap(split_words(text, false, &words), "response file %s", path));
	vec_foreach (word, &words.v)
		TRY(expand(*word, directory, depth + 1, ret));
	return NULL;
}

struct suture_error *shell_expand_response_files(struct strings *argv, const char *directory)
{
	_cleanup_strings_ struct strings out = {};

	vec_foreach (arg, &argv->v)
		TRY(expand(*arg, directory, 0, &out));
	struct strings old = *argv;
	*argv = out;
	out = old;
	return NULL;
}

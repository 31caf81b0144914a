/* SPDX-License-Identifier: Apache-2.0 */
/* Text, colours, progress, errors and JSON. */
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tool.h"

static enum color_mode color_mode;
static bool progress_shown;

void *must(void *memory)
{
	if (memory)
		return memory;
	fputs("suture: out of memory\n", stderr);
	exit(SUTURE_STATUS_FAILED);
}

/* ---- text ---- */

void output_set_color(enum color_mode mode)
{
	color_mode = mode;
}

static bool wants_color(FILE *stream)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

	if (color_mode != COLOR_AUTO)
		return color_mode == COLOR_ALWAYS;
	return isatty(fileno(stream)) && !(no && *no) && term && strcmp(term, "dumb");
}

static void put_safe(FILE *stream, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		/* C1 controls are 0xc2 0x80 to 0xc2 0x9f in UTF-8. */
		bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;

		if ((*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f)
			fprintf(stream, "\\x%02x", *p);
		else if (c1)
			fprintf(stream, "\\x%02x", *++p);
		else
			putc(*p, stream);
	}
}

static void put(FILE *stream, enum color color, const char *fmt, va_list ap)
{
	static const char *const codes[] = {
		"", "\033[1m", "\033[1;31m", "\033[32m", "\033[33m", "\033[36m"};
	bool colored = color != PLAIN && wants_color(stream);
	char *text;

	progress_clear();
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	must(text);
	if (colored)
		fputs(codes[color], stream);
	put_safe(stream, text);
	if (colored)
		fputs("\033[0m", stream);
	free(text);
}

void out(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(stdout, PLAIN, fmt, ap);
	va_end(ap);
}

void err_out(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(stderr, PLAIN, fmt, ap);
	va_end(ap);
}

void out_color(enum color color, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(stdout, color, fmt, ap);
	va_end(ap);
}

void err_color(enum color color, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(stderr, color, fmt, ap);
	va_end(ap);
}

/* ---- progress and messages of the library ---- */

void progress(const char *fmt, ...)
{
	struct winsize size;
	char text[1024];
	va_list ap;

	if (!isatty(STDERR_FILENO))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) ? 0 : size.ws_col;
	/* A line that wraps could not be taken back. */
	if (columns > 1 && strlen(text) >= (size_t)columns)
		text[columns - 1] = '\0';
	fputs("\r\033[K", stderr);
	put_safe(stderr, text);
	fflush(stderr);
	progress_shown = true;
}

void progress_clear(void)
{
	if (!progress_shown)
		return;
	progress_shown = false;
	fputs("\r\033[K", stderr);
}

static void on_message(void *arg, enum suture_log_level level, const char *message)
{
	const struct args *args = arg;

	if (level == SUTURE_LOG_WARNING) {
		err_color(YELLOW, "suture: warning:");
		err_out(" %s\n", message);
	} else if (args->verbose) {
		err_out("suture: %s\n", message);
	} else {
		progress("%s", message);
	}
}

void output_attach(struct suture *ctx, const struct args *args)
{
	bool shows_progress = isatty(STDERR_FILENO) && !args->json;
	enum suture_log_level level = args->verbose > 1			? SUTURE_LOG_DEBUG
				      : args->verbose || shows_progress ? SUTURE_LOG_INFO
									: SUTURE_LOG_WARNING;

	if (!args->quiet)
		suture_set_log(ctx, level, on_message, (void *)args);
}

/* ---- errors ---- */

void print_hint(const struct suture_error *err)
{
	const char *hint = suture_error_hint(err);

	if (!hint)
		return;
	err_color(CYAN, "  hint:");
	err_out(" %s\n", hint);
}

void print_error(const struct suture_error *err, const char *context)
{
	err_color(RED, "suture:");
	err_out(" %s%s%s\n", context ? context : "", context ? ": " : "",
		suture_error_message(err));
}

int fail(const char *command, const struct args *args, struct suture_error *err)
{
	int status = suture_error_status(err);

	if (args->json) {
		json_print(command, status, err, NULL);
	} else {
		print_error(err, NULL);
		print_hint(err);
	}
	suture_error_destroy(err);
	return status;
}

int output_finish(int status)
{
	bool failed = ferror(stdout);

	progress_clear();
	/* Not all of it came out: a script must not take it for the whole report. */
	if (fflush(stdout) || failed) {
		fprintf(stderr, "suture: cannot write to standard output: %s\n", strerror(errno));
		return status ? status : SUTURE_STATUS_FAILED;
	}
	return status;
}

struct duration duration_of(uint64_t ns)
{
	struct duration d;

	if (ns < 1000000)
		snprintf(d.text, sizeof(d.text), "%.*f us", ns < 10000, ns / 1e3);
	else if (ns < 1000000000)
		snprintf(d.text, sizeof(d.text), "%.1f ms", ns / 1e6);
	else
		snprintf(d.text, sizeof(d.text), "%.2f s", ns / 1e9);
	return d;
}

const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

/* ---- JSON ---- */

json_t *json_text(const char *text)
{
	if (!text)
		return json_null();
	json_t *json = json_string(text);
	if (json)
		return json;
	char *copy = must(strdup(text));
	for (char *p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	json = json_string(copy);
	free(copy);
	return must(json);
}

json_t *json_address(uint64_t address)
{
	return must(json_sprintf("0x%llx", (unsigned long long)address));
}

json_t *json_error(const struct suture_error *err)
{
	if (!err)
		return json_null();
	return must(json_pack("{s:s, s:o, s:o}", "code",
		suture_error_code_name(suture_error_code(err)), "message",
		json_text(suture_error_message(err)), "hint", json_text(suture_error_hint(err))));
}

void json_print(const char *command, int status, const struct suture_error *err, json_t *more)
{
	json_t *root = must(json_pack(
		"{s:s, s:i, s:o}", "command", command, "status", status, "error", json_error(err)));

	if (more && json_object_update_missing(root, more) < 0)
		must(NULL);
	json_decref(more);
	progress_clear();
	char *text = must(json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS));
	puts(text);
	free(text);
	json_decref(root);
}

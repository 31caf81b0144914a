/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switch on a live child: all sites or none, in either direction, and whatever a killed tool
 * left is put right.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../unit.h"
#include "apply/commit.h"

enum { N = 3, PAGE = 4096 };

/* The child is a copy of us: what is mapped here before the fork is at the same place there. */
struct world {
	pid_t child;
	struct process *process;
	struct ledger *ledger;
	uint8_t *code, *record;
};

static const uint8_t old_bytes[N][5] = {
	{0x55, 0x48, 0x89, 0xe5, 1}, {0x53, 0x90, 2, 3, 4}, {0x41, 0x54, 5, 6, 7}};
static const uint8_t detours[N][5] = {{0xe9, 1, 1, 1, 1}, {0xe9, 2, 2, 2, 2}, {0xe9, 3, 3, 3, 3}};

static struct ledger *make_ledger(const uint8_t *code, const uint8_t *record)
{
	struct ledger *ledger = ledger_create();
	struct ledger_image *image = vec_add(&ledger->images);

	*image = (struct ledger_image){
		.name = strdup("prog"),
		.start = (uintptr_t)record - PAGE,
		.end = (uintptr_t)record + 3 * PAGE,
		.text = (uintptr_t)record + PAGE,
		.text_end = (uintptr_t)record + 2 * PAGE,
	};
	ledger->address = (uintptr_t)record;
	ledger->name = strdup("test");
	ledger->state = LEDGER_STAGED;
	for (int i = 0; i < N; i++) {
		struct ledger_function *f = vec_add(&ledger->functions);

		f->name = strdup(i == 0 ? "f" : i == 1 ? "g" : "h");
		/* The last one crosses a page. */
		f->site = (uintptr_t)code + (i == 2 ? PAGE - 2 : i * 64);
		f->address = f->site;
		f->size = 32;
		f->length = 5;
		f->new_address = image->text;
		f->new_size = 16;
		memcpy(f->saved, old_bytes[i], 5);
		memcpy(f->detour, detours[i], 5);
	}
	return ledger;
}

static void *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

static int begin(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	size_t size;
	void *data;

	w->code = map(2 * PAGE);
	uint8_t *reservation = map(4 * PAGE);
	w->record = reservation + PAGE;
	w->ledger = make_ledger(w->code, w->record);
	for (int i = 0; i < N; i++)
		memcpy((void *)w->ledger->functions.at[i].site, old_bytes[i], 5);
	assert_ok(ledger_encode(w->ledger, &data, &size));
	memcpy(w->record, data, size);
	free(data);
	mprotect(w->code, 2 * PAGE, PROT_READ | PROT_EXEC);
	mprotect(w->record, PAGE, PROT_READ);
	mprotect(reservation, PAGE, PROT_NONE);
	fflush(NULL);
	w->child = fork();
	if (!w->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	assert_ok(process_open(w->child, true, &w->process));
	*state = w;
	return 0;
}

static int end(void **state)
{
	struct world *w = *state;

	process_close(w->process);
	kill(w->child, SIGKILL);
	waitpid(w->child, NULL, 0);
	munmap(w->code, 2 * PAGE);
	munmap(w->record - PAGE, 4 * PAGE);
	ledger_destroy(w->ledger);
	free(w);
	return 0;
}

static void assert_sites(struct world *w, const uint8_t want[N][5])
{
	uint8_t live[5];

	for (int i = 0; i < N; i++) {
		assert_ok(process_read(w->process, w->ledger->functions.at[i].site, live, 5));
		assert_memory_equal(live, want[i], 5);
	}
}

static void assert_state(struct world *w, enum ledger_state want)
{
	enum ledger_state state;

	assert_ok(ledger_get_state(w->process, w->ledger->address, &state));
	assert_int_equal(state, want);
}

static struct suture_error *run(struct world *w, enum commit_kind kind)
{
	struct commit c;

	struct suture_error *err = commit_init(&c, w->process, w->ledger, kind);
	if (!err)
		err = commit_run(&c);
	commit_deinit(&c);
	if (!err)
		suture_error_destroy(
			ledger_get_state(w->process, w->ledger->address, &w->ledger->state));
	return err;
}

static void in_and_out(void **state)
{
	struct world *w = *state;

	assert_ok(run(w, COMMIT_APPLY));
	assert_sites(w, detours);
	assert_state(w, LEDGER_APPLIED);
	assert_ok(run(w, COMMIT_REVERT));
	assert_sites(w, old_bytes);
	assert_state(w, LEDGER_REVERTING);
}

static void unexpected_bytes(void **state)
{
	struct world *w = *state;
	remote_addr site = w->ledger->functions.at[1].site;

	assert_ok(process_write(w->process, site + 1, "\xcc", 1));
	assert_error(run(w, COMMIT_APPLY), SUTURE_ERROR_CODE_MISMATCH, "in g there is 53cc020304");
	assert_state(w, LEDGER_STAGED);
	assert_ok(process_write(w->process, site + 1, old_bytes[1] + 1, 1));
	assert_sites(w, old_bytes);

	assert_ok(run(w, COMMIT_APPLY));
	assert_ok(process_write(w->process, site, "\x90", 1));
	assert_error(run(w, COMMIT_REVERT), SUTURE_ERROR_CODE_MISMATCH, "g");
	assert_state(w, LEDGER_APPLIED);
	assert_ok(process_write(w->process, site, "\xe9", 1));
	assert_sites(w, detours);
}

static void also_expected(void **state)
{
	struct world *w = *state;
	const uint8_t want[8] = {0x55, 0x48, 0x89, 0xe5, 1, 0, 0, 9};
	struct commit c;

	assert_ok(commit_init(&c, w->process, w->ledger, COMMIT_APPLY));
	assert_ok(commit_expect(&c, "whole", (uintptr_t)w->code, want, sizeof(want)));
	assert_error(commit_run(&c), SUTURE_ERROR_CODE_MISMATCH, "whole has changed");
	assert_sites(w, old_bytes);
	assert_ok(process_write(w->process, (uintptr_t)w->code, want, sizeof(want)));
	assert_ok(commit_run(&c));
	assert_sites(w, detours);
	commit_deinit(&c);
}

/* The record is not the one that we knew. */
static void somebody_else(void **state)
{
	struct world *w = *state;

	assert_ok(ledger_set_state(w->process, w->ledger->address, LEDGER_REVERTING));
	assert_error(run(w, COMMIT_APPLY), SUTURE_ERROR_BUSY, "another suture");
	assert_sites(w, old_bytes);
	assert_ok(process_write(w->process, w->ledger->address, "nothing", 8));
	assert_error(run(w, COMMIT_APPLY), SUTURE_ERROR_LEDGER, "no ledger record");
	assert_sites(w, old_bytes);
}

/* A write that fails in the middle: what was done is undone. The last site is not there at all. */
static void roll_back(void **state)
{
	struct world *w = *state;
	struct commit c;

	assert_ok(commit_init(&c, w->process, w->ledger, COMMIT_APPLY));
	/* Compared with what is expected, it passes; it is gone before it is written. */
	remote_addr site = w->ledger->functions.at[2].site;
	w->ledger->functions.at[2].site = 0x1000;
	assert_error(commit_run(&c), SUTURE_ERROR_INPUT, "0x1000");
	w->ledger->functions.at[2].site = site;
	assert_sites(w, old_bytes);
	assert_state(w, LEDGER_STAGED);
	commit_deinit(&c);
}

/* Killed after any number of bytes. */
static void recover(void **state)
{
	struct world *w = *state;

	for (int n = 0; n <= N * 5; n++) {
		assert_ok(ledger_set_state(w->process, w->ledger->address, LEDGER_COMMITTING));
		w->ledger->state = LEDGER_COMMITTING;
		for (int i = 0; i < n; i++)
			assert_ok(process_write(w->process,
				w->ledger->functions.at[i / 5].site + i % 5, &detours[i / 5][i % 5],
				1));
		assert_ok(run(w, COMMIT_RECOVER));
		assert_sites(w, old_bytes);
		assert_state(w, LEDGER_REVERTING);
	}
	/* What neither wrote is not touched. */
	assert_ok(process_write(w->process, w->ledger->functions.at[0].site + 2, "\xcc", 1));
	assert_error(run(w, COMMIT_RECOVER), SUTURE_ERROR_CODE_MISMATCH, "f");
}

/* What the scan finds, and what it does not take for a record. */
static void scan(void **state)
{
	struct world *w = *state;
	struct ledgers ledgers;
	struct maps maps;

	assert_ok(process_maps(w->process, &maps));
	assert_ok(ledgers_scan(w->process, &maps, &ledgers));
	assert_int_equal(ledgers.v.n, 1);
	assert_int_equal(ledgers.damaged.n, 0);
	assert_int_equal(ledgers.v.at[0]->address, w->ledger->address);
	assert_ptr_equal(ledgers_find(&ledgers, "test"), ledgers.v.at[0]);
	assert_null(ledgers_find(&ledgers, "tes"));
	ledgers_deinit(&ledgers);

	assert_ok(process_write(w->process, w->ledger->address + 90, "x", 1));
	assert_ok(ledgers_scan(w->process, &maps, &ledgers));
	assert_int_equal(ledgers.v.n, 0);
	assert_int_equal(ledgers.damaged.n, 1);
	assert_int_equal(suture_error_code(ledgers.damaged.at[0]), SUTURE_ERROR_LEDGER);
	ledgers_deinit(&ledgers);
	maps_deinit(&maps);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_and_out, begin, end),
		cmocka_unit_test_setup_teardown(unexpected_bytes, begin, end),
		cmocka_unit_test_setup_teardown(also_expected, begin, end),
		cmocka_unit_test_setup_teardown(somebody_else, begin, end),
		cmocka_unit_test_setup_teardown(roll_back, begin, end),
		cmocka_unit_test_setup_teardown(recover, begin, end),
		cmocka_unit_test_setup_teardown(scan, begin, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

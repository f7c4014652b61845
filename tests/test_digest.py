import hashlib

from clustr_keras.digest import sha256_of_files


def test_names_and_contents_count_and_where_one_ends():
    found = sha256_of_files(iter([("a", b"bc"), ("d/e", b"")]))
    assert found == hashlib.sha256(b"a 2\nbcd/e 0\n").hexdigest()
    others = ([("ab", b"c"), ("d/e", b"")], [("a", b"bcd/e"), ("", b"")], [("d/e", b""), ("a", b"bc")], [("a", b"bc")])
    assert found not in map(sha256_of_files, others)

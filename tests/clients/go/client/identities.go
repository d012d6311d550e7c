package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"
	"time"

	. "clients/internal/check"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// as is a client of somebody else.
func as(change func(*rest.Config)) *kubernetes.Clientset {
	mine := rest.AnonymousClientConfig(config)
	mine.QPS = -1
	change(mine)
	return Must(kubernetes.NewForConfig(mine))
}

func whoami(ctx context.Context, client *kubernetes.Clientset) (authenticationv1.UserInfo, error) {
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	return review.Status.UserInfo, err
}

var identities = []One{
	{"tokens are requested, reviewed and used", func(ctx context.Context) {
		accounts := kube.CoreV1().ServiceAccounts(ns)
		account := Must(accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}))
		secret := Must(kube.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}))
		spec := authenticationv1.TokenRequestSpec{Audiences: []string{"them"}, ExpirationSeconds: ptr.To[int64](600), BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "robot", UID: secret.UID}}
		theirs := Must(accounts.CreateToken(ctx, "robot", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{}))
		That(time.Until(theirs.Status.ExpirationTimestamp.Time) < 11*time.Minute, "it ends at %v", theirs.Status.ExpirationTimestamp)
		review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
			return Must(kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})).Status
		}
		status := review(theirs.Status.Token, "them", "others")
		Says(fmt.Sprintf("true [them] system:serviceaccount:%s:robot %s", ns, account.UID), status.Authenticated, status.Audiences, status.User.Username, status.User.UID)
		Says(fmt.Sprintf("[system:serviceaccounts system:serviceaccounts:%s system:authenticated]", ns), status.User.Groups)
		Is(review(theirs.Status.Token).Authenticated, false)
		Is(review("nonsense").Authenticated, false)
		spec = authenticationv1.TokenRequestSpec{}
		token := Must(accounts.CreateToken(ctx, "robot", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})).Status.Token
		robot := as(func(c *rest.Config) { c.BearerToken = token })
		Is(Must(whoami(ctx, robot)).Username, "system:serviceaccount:"+ns+":robot")
		Refused(robot.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}))(apierrors.IsForbidden, `pods is forbidden: User "system:serviceaccount:go:robot" cannot list resource "pods" in API group "" in the namespace "go"`)
		Refused(as(func(c *rest.Config) { c.BearerToken = theirs.Status.Token }).CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}))(apierrors.IsUnauthorized, "")
		Ok(kube.CoreV1().Secrets(ns).Delete(ctx, "robot", metav1.DeleteOptions{}))
		Within(20*time.Second, "the token went with its secret", func() bool { return !review(theirs.Status.Token, "them").Authenticated })
		Ok(accounts.Delete(ctx, "robot", metav1.DeleteOptions{}))
		Within(20*time.Second, "the token went with its account", func() bool { _, err := whoami(ctx, robot); return apierrors.IsUnauthorized(err) })
	}},
	{"impersonation and access reviews", func(ctx context.Context) {
		jane := *config
		jane.Impersonate = rest.ImpersonationConfig{UserName: "jane", UID: "7", Groups: []string{"sailors"}, Extra: map[string][]string{"ship": {"Argo"}}}
		client := Must(kubernetes.NewForConfig(&jane))
		who := Must(whoami(ctx, client))
		Says("jane 7 [sailors system:authenticated] [Argo]", who.Username, who.UID, who.Groups, who.Extra["ship"])
		Refused(client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}))(apierrors.IsForbidden, `nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope`)
		attributes := &authorizationv1.ResourceAttributes{Verb: "list", Resource: "nodes"}
		Is(Must(client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}, metav1.CreateOptions{})).Status.Allowed, false)
		Is(Must(kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: attributes, Groups: []string{"system:masters"}}}, metav1.CreateOptions{})).Status.Allowed, true)
		rules := Must(client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{}))
		That(len(rules.Status.ResourceRules) > 0 && !rules.Status.Incomplete, "%v", rules.Status)
	}},
	{"a certificate is requested, approved and signed", func(ctx context.Context) {
		key := Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		request := Must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "joan"}}, key))
		csrs := kube.CertificatesV1().CertificateSigningRequests()
		csr := Must(csrs.Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "joan-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), SignerName: "go.example/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}, metav1.CreateOptions{}))
		That(csr.Spec.Username != "" && len(csr.Spec.Groups) > 0, "nobody asked: %v", csr.Spec)
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"})
		csr = Must(csrs.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}))
		csr.Status.Certificate = []byte("nonsense")
		Refused(csrs.UpdateStatus(ctx, csr, metav1.UpdateOptions{}))(apierrors.IsInvalid, "status.certificate: Invalid value")
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: Must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))})
		csr = Must(csrs.UpdateStatus(ctx, csr, metav1.UpdateOptions{}))
		csr.Status.Conditions = nil
		Refused(csrs.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}))(apierrors.IsInvalid, `status.conditions: Forbidden: updates may not remove a condition of type "Approved"`)
		Ok(csrs.Delete(ctx, csr.Name, metav1.DeleteOptions{}))
	}},
	{"one of two leads, and the other follows", func(ctx context.Context) {
		var leader atomic.Value
		elect := func(name string) context.CancelFunc {
			mine, cancel := context.WithCancel(ctx)
			lock := Must(resourcelock.New(resourcelock.LeasesResourceLock, ns, "lead", kube.CoreV1(), kube.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name}))
			go leaderelection.RunOrDie(mine, leaderelection.LeaderElectionConfig{Lock: lock, ReleaseOnCancel: true, LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 300 * time.Millisecond,
				Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { leader.Store(name) }, OnStoppedLeading: func() {}}})
			return cancel
		}
		first := elect("first")
		Within(5*time.Second, "the first leads", func() bool { return leader.Load() == "first" })
		second := elect("second")
		defer second()
		time.Sleep(time.Second)
		Is(leader.Load().(string), "first")
		lease := Must(kube.CoordinationV1().Leases(ns).Get(ctx, "lead", metav1.GetOptions{}))
		Is(*lease.Spec.HolderIdentity, "first")
		That(lease.Spec.RenewTime.Nanosecond()%1000 == 0 && lease.Spec.RenewTime.After(lease.Spec.AcquireTime.Time), "%v", lease.Spec)
		first()
		Within(5*time.Second, "the second leads", func() bool { return leader.Load() == "second" })
		Is(*Must(kube.CoordinationV1().Leases(ns).Get(ctx, "lead", metav1.GetOptions{})).Spec.LeaseTransitions, 1)
	}},
	{"events are recorded and counted", func(ctx context.Context) {
		about := Must(kube.CoreV1().Pods(ns).Get(ctx, "apart", metav1.GetOptions{}))
		broadcaster := record.NewBroadcaster(record.WithContext(ctx))
		broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: kube.CoreV1().Events(ns)})
		defer broadcaster.Shutdown()
		recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "clients"})
		for range 3 {
			recorder.Eventf(about, corev1.EventTypeWarning, "Tested", "it is %s", "seen")
		}
		var found []corev1.Event
		Within(10*time.Second, "the event is counted thrice", func() bool {
			found = Must(kube.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=apart,reason=Tested,type=Warning"})).Items
			return len(found) == 1 && found[0].Count == 3
		})
		same := Must(kube.EventsV1().Events(ns).Get(ctx, found[0].Name, metav1.GetOptions{}))
		Says("it is seen 3 apart", same.Note, same.DeprecatedCount, same.Regarding.Name)
	}},
	{"service accounts' tokens of a pod name it", func(ctx context.Context) {
		pod := Must(kube.CoreV1().Pods(ns).Get(ctx, "apart", metav1.GetOptions{}))
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: types.UID(pod.UID)}}}
		token := Must(kube.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", request, metav1.CreateOptions{})).Status.Token
		who := Must(whoami(ctx, as(func(c *rest.Config) { c.BearerToken = token })))
		Says("[apart] true", who.Extra["authentication.kubernetes.io/pod-name"], slices.Contains(who.Groups, "system:serviceaccounts"))
	}},
}
